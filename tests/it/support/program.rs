//! Runs programs, above all our own, with a time limit.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Database, Directory, PATIENCE, wait_for};

/// The program under test.
const AFTERIMAGE: &str = env!("CARGO_BIN_EXE_afterimage");

/// Where cargo builds; `tests/install` puts its Python environment there too.
pub(crate) fn target_directory() -> &'static Path {
    // <target>/<profile>/afterimage
    Path::new(AFTERIMAGE).ancestors().nth(2).unwrap()
}

/// A program about to run, in an environment without any of the variables that ours would heed.
#[derive(Debug)]
pub(crate) struct Program(Command);

impl Program {
    /// Our own.
    pub(crate) fn afterimage<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
        Program::new(Path::new(AFTERIMAGE)).arguments(arguments)
    }

    pub(crate) fn new(path: &Path) -> Program {
        let mut command = Command::new(path);
        for (name, _) in std::env::vars().filter(|(name, _)| is_heeded(name)) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        Program(command)
    }

    pub(crate) fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Program {
        self.0.args(arguments);
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Program {
        self.0.env(name, value);
        self
    }

    pub(crate) fn source(self, database: &Database) -> Program {
        self.variable("AFTERIMAGE_SOURCE", database.url())
    }

    pub(crate) fn archive(self, url: &str) -> Program {
        self.variable("AFTERIMAGE_ARCHIVE", url)
    }

    /// What it reads from standard input, which is empty otherwise.
    pub(crate) fn input(mut self, text: &str) -> Program {
        let (reader, mut writer) = std::io::pipe().unwrap();
        // A pipe holds this much without a reader.
        assert!(text.len() <= 4096, "too long for a pipe");
        writer.write_all(text.as_bytes()).unwrap();
        self.0.stdin(reader);
        self
    }

    pub(crate) fn working_directory(mut self, path: &Path) -> Program {
        self.0.current_dir(path);
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// After `patience`, with what it wrote.
    #[track_caller]
    pub(crate) fn run(self, patience: Duration) -> End {
        self.start().wait(patience)
    }

    /// Runs it to its end with a standard output that nobody reads, as `| head` leaves it.
    ///
    /// # Panics
    /// After `patience`.
    #[track_caller]
    pub(crate) fn run_without_reader(self, patience: Duration) -> End {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        self.start_into(Some(writer.into())).wait(patience)
    }

    /// Its path and arguments as a shell would be given them.
    pub(crate) fn words(&self) -> Vec<String> {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        words.map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn start(self) -> Running {
        self.start_into(None)
    }

    fn start_into(mut self, stdout: Option<Stdio>) -> Running {
        let directory = Directory::new().always_removed();
        let captured = File::create(directory.join("stdout")).unwrap();
        let stdout = stdout.unwrap_or_else(|| captured.into());
        let stderr = File::create(directory.join("stderr")).unwrap();
        let child = self.0.stdout(stdout).stderr(stderr).spawn();
        let child = child.unwrap_or_else(|error| panic!("{:?}: {error}", self.0.get_program()));
        Running { child, directory }
    }
}

fn is_heeded(name: &str) -> bool {
    name == "DATABASE_URL" || ["AFTERIMAGE_", "AWS_", "PG"].iter().any(|prefix| name.starts_with(prefix))
}

/// A program at work; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    directory: Directory,
}

impl Running {
    /// What it has written to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// What it has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Waits until it streams: an archiver.
    #[track_caller]
    pub(crate) fn streaming(mut self) -> Running {
        wait_for("the archiver streams", PATIENCE, || {
            let streams = self.stderr().contains("archiving from");
            assert!(streams || self.is_running(), "{}", self.stderr());
            streams
        });
        self
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name: `INT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().unwrap();
        assert!(sent.success(), "cannot send {name}");
    }

    /// As [`Running::signal`], unless it has ended by itself.
    pub(crate) fn signal_if_running(&mut self, name: &str) {
        // An end that nobody has waited for keeps the process id, so the signal cannot meet a stranger.
        if self.is_running() {
            self.signal(name);
        }
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) -> End {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.end(status)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After `patience`, with what it wrote.
    #[track_caller]
    pub(crate) fn wait(mut self, patience: Duration) -> End {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return self.end(status);
            }
            if Instant::now() > deadline {
                let (stdout, stderr) = (self.stdout(), self.stderr());
                panic!("still running after {patience:?}\nstdout:\n{stdout}\nstderr:\n{stderr}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&self, status: ExitStatus) -> End {
        End { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join(name)).unwrap()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a program ended, and all that it wrote.
#[derive(Debug)]
pub(crate) struct End {
    /// `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl End {
    /// Checks the exit code; shows everything if it is another.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> End {
        let End { code: ended, stdout, stderr } = &self;
        assert_eq!(*ended, Some(code), "exit code\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }
}
