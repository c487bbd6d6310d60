//! One run of a program: how long, how much processor time, how much memory.

use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;

/// How exact the end of a run is seen, and how old the last look at its memory may be.
const POLL: Duration = Duration::from_millis(2);

/// Clock ticks per second in `/proc/PID/stat`; the same on every Linux (`USER_HZ`).
const TICKS: u64 = 100;

/// Longer than any run should take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From start to end.
    pub(crate) wall: Duration,
    /// Of all its threads, in user and kernel mode. Unlike `wall` it hardly depends on who else uses the machine.
    pub(crate) processor: Duration,
    /// The most memory it had resident.
    pub(crate) peak_bytes: u64,
}

/// Runs a program to its end, what it prints thrown away, and fails where the program does.
pub(crate) fn measure(command: &mut Command) -> Result<Cost> {
    let complaints = concat!(env!("CARGO_TARGET_TMPDIR"), "/speed-stderr");
    command.stdout(Stdio::null()).stderr(File::create(complaints)?);
    let started = Instant::now();
    let child = spawn(command)?;
    finish(child, started)?.map_err(|status| {
        let said = fs::read_to_string(complaints).unwrap_or_default();
        format!("{command:?}: {status}: {}", said.trim()).into()
    })
}

/// Runs programs side by side to their ends, what they print thrown away; the time is that of the last.
pub(crate) fn measure_together(commands: &mut [Command]) -> Result<Cost> {
    let started = Instant::now();
    let children = commands.iter_mut().map(|command| spawn(command.stdout(Stdio::null())));
    let children: Vec<Child> = children.collect::<Result<_>>()?;
    let mut all = Cost { wall: Duration::ZERO, processor: Duration::ZERO, peak_bytes: 0 };
    for child in children {
        let cost = finish(child, started)?.map_err(|status| format!("one of them: {status}"))?;
        all.wall = all.wall.max(cost.wall);
        all.processor += cost.processor;
        all.peak_bytes += cost.peak_bytes;
    }
    Ok(all)
}

/// What a process that runs has cost so far, beginning at some time.
pub(crate) fn so_far(pid: u32, started: Instant) -> Result<Cost> {
    let peak_bytes = peak(pid).ok_or("it does not run any more")?;
    Ok(Cost { wall: started.elapsed(), processor: processor_time(pid)?, peak_bytes })
}

/// Starts a program that runs until it is [`stop`]ped.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    let child = command.stdin(Stdio::null()).spawn();
    child.map_err(|error| format!("{}: {error}", command.get_program().display()).into())
}

/// Ends a program in order.
pub(crate) fn stop(child: Child) -> Result<()> {
    end(child, "-TERM")
}

/// The same for one that waits for the terminal's interruption, as `pg_recvlogical` does.
pub(crate) fn interrupt(child: Child) -> Result<()> {
    end(child, "-INT")
}

fn end(mut child: Child, signal: &str) -> Result<()> {
    let told = Command::new("kill").args([signal, &child.id().to_string()]).status()?;
    let ended = child.wait()?;
    if told.success() && ended.success() { Ok(()) } else { Err(format!("stopping it: {ended}").into()) }
}

fn finish(mut child: Child, started: Instant) -> Result<std::result::Result<Cost, ExitStatus>> {
    let mut peak_bytes = 0;
    // What has ended still shows its times until it is waited for, but no memory any more.
    while !has_ended(child.id())? {
        peak_bytes = peak(child.id()).unwrap_or(peak_bytes);
        if started.elapsed() > PATIENCE {
            child.kill()?;
        }
        thread::sleep(POLL);
    }
    let wall = started.elapsed();
    let processor = processor_time(child.id())?;
    let status = child.wait()?;
    Ok(if status.success() { Ok(Cost { wall, processor, peak_bytes }) } else { Err(status) })
}

/// The processor time of a process, of its children, and of those that have ended.
pub(crate) fn family_time(pid: u32) -> Result<Duration> {
    let mut all = ticks(&stat(pid)?, &[11, 12, 13, 14]);
    for child in fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?.split_whitespace() {
        // One that has just ended is among its parent's.
        all += stat(child.parse()?).map_or(0, |fields| ticks(&fields, &[11, 12]));
    }
    Ok(Duration::from_millis(all * 1000 / TICKS))
}

fn has_ended(pid: u32) -> Result<bool> {
    Ok(stat(pid)?.first().is_some_and(|state| state == "Z"))
}

fn processor_time(pid: u32) -> Result<Duration> {
    Ok(Duration::from_millis(ticks(&stat(pid)?, &[11, 12]) * 1000 / TICKS))
}

/// Of utime, stime, cutime and cstime, the fields 11 to 14 when counted from the state on (proc(5)).
fn ticks(fields: &[String], which: &[usize]) -> u64 {
    which.iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}

/// The fields of `/proc/PID/stat` after the program's name, which may contain anything.
fn stat(pid: u32) -> Result<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = line.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
