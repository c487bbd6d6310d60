//! Child processes that run as somebody who may run PostgreSQL, and that end when we do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::failure::{Failure, Result};

/// Starts the server given as arguments, prints its process id, and lives exactly as long as it does. End of file on
/// standard input means that our process is gone: the server is ended and, unless it is to be kept, its directory.
const WATCH: &str = r#"
home=$1 log=$2
shift 2
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
server=$!
echo "$server"
exec >/dev/null 2>&1
(read -r _ <&3; : >"$home/orphaned"; kill -QUIT "$server") &
watch=$!
exec 3<&- </dev/null
wait "$server"
kill "$watch"
if [ -e "$home/orphaned" ] && [ ! -e "$home/keep" ]; then cd / && rm -rf "$home"; fi
"#;

/// Whom PostgreSQL runs as: ourselves, or for root an ordinary user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    other: Option<(u32, u32)>,
}

impl Account {
    /// Decides by the owner of a file that we have just made, which is our effective user.
    pub(super) fn for_owner_of(made_by_us: &Path) -> Result<Account> {
        let metadata = fs::metadata(made_by_us)
            .map_err(|error| Failure::failed(format!("cannot look at {}: {error}", made_by_us.display())))?;
        if metadata.uid() != 0 {
            return Ok(Account { other: None });
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let other = ["postgres", "nobody"].iter().find_map(|name| user_and_group(&users, name)).ok_or_else(|| {
            Failure::failed("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
                .remedy("run as an ordinary user, or install the system's postgresql package, which makes one")
        })?;
        Ok(Account { other: Some(other) })
    }

    /// Makes the account the owner of a file or directory.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let Some((user, group)) = self.other else { return Ok(()) };
        chown(path, Some(user), Some(group))
            .map_err(|error| Failure::failed(format!("cannot give {} to user {user}: {error}", path.display())))
    }

    /// A command that runs as the account, in `directory`, untouched by whatever `PG…` variables are about.
    pub(super) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).env("LC_ALL", "C").env("TZ", "UTC").env("HOME", directory);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        if let Some((user, group)) = self.other {
            command.uid(user).gid(group);
        }
        command
    }
}

fn user_and_group(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = passwd.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Runs a command to its end.
///
/// # Errors
/// [`crate::failure::Category::Failed`] with the reason that it gave on standard error, or else on standard output.
pub(super) fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_run(&program, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].iter().find_map(|bytes| reason(&String::from_utf8_lossy(bytes)));
    let said = said.unwrap_or_else(|| output.status.to_string());
    Err(Failure::failed(format!("{program}: {said}")))
}

/// The line that tells why, in what a PostgreSQL program wrote: its last complaint, since what follows that is tidying
/// up; else its last line.
pub(super) fn reason(output: &str) -> Option<String> {
    let complains = |line: &&str| ["FATAL:", "PANIC:", "error:", "ERROR:"].iter().any(|level| line.contains(level));
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    lines.clone().find(complains).or_else(|| lines.next()).map(str::to_owned)
}

fn cannot_run(program: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot run {program}: {error}"))
        .remedy("PostgreSQL's programs and the temporary directory must be open to the user that it runs as")
}

/// A server whose life is tied to ours. Dropping it ends the server at once if it still runs.
#[derive(Debug)]
pub(super) struct Watched {
    shell: Child,
    pid: u32,
    /// Held, never written to: its closing is the signal.
    pipe: Option<ChildStdin>,
}

impl Watched {
    /// Starts `arguments`, whose first is the program; its output is appended to `log`.
    pub(super) fn spawn(account: &Account, home: &Path, log: &Path, arguments: &[String]) -> Result<Watched> {
        let mut command = account.command(Path::new("/bin/sh"), home);
        command.args(["-c", WATCH, "afterimage-watch"]).arg(home).arg(log).args(arguments);
        // A group of its own: an interrupt from the terminal is ours to turn into an orderly end.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().map_err(|error| cannot_run("/bin/sh", &error))?;
        let pipe = shell.stdin.take();
        let pid = shell.stdout.take().and_then(|output| {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).ok()?;
            line.trim().parse().ok()
        });
        let pid = pid.ok_or_else(|| Failure::failed("the shell that watches the scratch server did not start it"))?;
        Ok(Watched { shell, pid, pipe })
    }

    /// The server's process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.shell.try_wait(), Ok(None))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.pipe = None;
        // The shell ends right after its server, which SIGQUIT ends without a checkpoint.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_user_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres-old:x:7:7::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(user_and_group(passwd, "postgres"), Some((101, 104)));
        assert_eq!(user_and_group(passwd, "nobody"), None);
    }

    #[test]
    fn a_complaint_counts_for_more_than_the_tidying_up_after_it() {
        let output = "running bootstrap script ... FATAL:  no memory\nchild exited\ninitdb: removing directory\n\n";
        assert_eq!(reason(output).as_deref(), Some("running bootstrap script ... FATAL:  no memory"));
        assert_eq!(reason("waiting\nstopped\n").as_deref(), Some("stopped"));
        assert_eq!(reason("\n"), None);
    }

    #[test]
    fn a_failed_command_says_why() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo hint; echo 'reason' >&2; echo >&2; exit 3"]);
        assert_eq!(run(command).unwrap_err().cause(), "/bin/sh: reason");
    }
}
