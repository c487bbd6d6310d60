//! Long output, through a pager where a person is looking.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::process::{Child, Command, Stdio};

/// Where there is no `less`, pages are not turned.
const LESS: &str = "if command -v less >/dev/null; then exec less; else exec cat; fi";

/// Standard output, or a pager in front of it.
pub(super) struct Pager {
    /// `None` once the pager has all.
    out: Option<Box<dyn Write + Send>>,
    child: Option<Child>,
}

impl Pager {
    /// A pager on a terminal, by `AFTERIMAGE_PAGER` or `PAGER`, else `less`, which ends by itself where all fits; nothing
    /// in between otherwise.
    pub(super) fn start(wanted: bool) -> Pager {
        let plain = || Pager { out: Some(Box::new(BufWriter::new(anstream::stdout()))), child: None };
        if !wanted || !io::stdout().is_terminal() {
            return plain();
        }
        let named = |name: &str| std::env::var(name).ok().filter(|pager| !pager.is_empty());
        let pager = named("AFTERIMAGE_PAGER").or_else(|| named("PAGER")).unwrap_or_else(|| LESS.to_owned());
        let mut command = Command::new("sh");
        command.args(["-c", &pager]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            command.env("LESS", "FRX");
        }
        let Ok(mut child) = command.spawn() else { return plain() };
        match child.stdin.take() {
            Some(stdin) => Pager { out: Some(Box::new(BufWriter::new(stdin))), child: Some(child) },
            None => plain(),
        }
    }
}

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(bytes.len()), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.flush())
    }
}

/// The command ends when the person has read.
impl Drop for Pager {
    fn drop(&mut self) {
        // Who stopped reading has no use for the rest.
        drop(self.out.take());
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}
