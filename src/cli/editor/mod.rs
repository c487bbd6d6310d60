//! Lines that somebody types on a terminal: moving in them, what was typed before, completion.
//!
//! A crate for this would change how the crates that all the others rest on are built; what is needed is little.

mod keys;
mod line;
mod past;

use std::io::{self, Read as _, Write as _, stdin, stdout};
use std::path::PathBuf;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use keys::{Key, Keys};
use line::Line;
use past::Past;

/// What came of asking for a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C: what was typed is thrown away.
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// Says what the text before the cursor could be completed to: where the word begins, in bytes, and what it could be.
pub(super) type Complete<'a> = dyn Fn(&str) -> (usize, Vec<String>) + 'a;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Editor {
    past: Past,
    keys: Keys,
}

/// A line on its way.
struct Editing<'a> {
    prompt: &'a str,
    line: Line,
    /// Which of the earlier lines is shown, and what was typed before it.
    recalled: usize,
    typed: Line,
    /// The row of the cursor below the prompt's.
    row: usize,
}

impl Editor {
    /// One that remembers lines in a file.
    pub(super) fn new(history: PathBuf) -> Editor {
        Editor { past: Past::read(history), keys: Keys::default() }
    }

    /// Remembers what was typed.
    pub(super) fn remember(&mut self, line: &str) {
        self.past.add(line);
    }

    /// Asks for a line.
    ///
    /// # Errors
    /// Where the terminal cannot be read or written.
    pub(super) fn read_line(&mut self, prompt: &str, complete: &Complete<'_>) -> io::Result<Typed> {
        if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
            return plain_line(prompt);
        }
        let _raw = Raw::enter()?;
        let recalled = self.past.len();
        let mut editing = Editing { prompt, line: Line::default(), recalled, typed: Line::default(), row: 0 };
        editing.show()?;
        let mut tabbed = false;
        loop {
            let Some(key) = self.key()? else { return editing.leave(Typed::End) };
            let again = std::mem::replace(&mut tabbed, key == Key::Tab);
            match key {
                Key::Enter => {
                    let text = editing.line.text().to_owned();
                    return editing.leave(Typed::Line(text));
                }
                Key::Ctrl('c') => return editing.leave(Typed::Interrupted),
                Key::Ctrl('d') if editing.line.text().is_empty() => return editing.leave(Typed::End),
                Key::Ctrl('l') => editing.clear()?,
                Key::Ctrl('r') => self.search(&mut editing)?,
                // In a paste a tab is only a blank.
                Key::Tab if self.keys.pending() => editing.line.insert(" "),
                Key::Tab => editing.complete(complete, again)?,
                Key::Up | Key::Ctrl('p') => editing.recall(&self.past, -1),
                Key::Down | Key::Ctrl('n') => editing.recall(&self.past, 1),
                key => edit(&mut editing.line, key),
            }
            if !self.keys.pending() {
                editing.show()?;
            }
        }
    }

    /// The next key; `None` where no more come.
    fn key(&mut self) -> io::Result<Option<Key>> {
        loop {
            if let Some(key) = self.keys.next() {
                return Ok(Some(key));
            }
            let mut bytes = [0; 1024];
            match stdin().read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.keys.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ctrl-R: the newest earlier line with what is typed in it; again, the one before.
    fn search(&mut self, editing: &mut Editing<'_>) -> io::Result<()> {
        let (mut sought, mut found) = (String::new(), self.past.len());
        loop {
            let shown = Line::new(self.past.get(found).unwrap_or_default());
            let prompt = format!("(search) {sought}: ");
            let mut searching =
                Editing { prompt: &prompt, line: shown, recalled: 0, typed: Line::default(), ..*editing };
            searching.show()?;
            editing.row = searching.row;
            match self.key()? {
                Some(Key::Char(c)) => {
                    sought.push(c);
                    found = self.past.find(&sought, found.saturating_add(1)).unwrap_or(found);
                }
                Some(Key::Backspace) => {
                    sought.pop();
                    found = self.past.find(&sought, self.past.len()).unwrap_or(found);
                }
                Some(Key::Ctrl('r')) => found = self.past.find(&sought, found).unwrap_or(found),
                Some(Key::Ctrl('c' | 'g')) | None => return Ok(()),
                Some(key) => {
                    editing.line = Line::new(self.past.get(found).unwrap_or(editing.line.text()));
                    if key == Key::Enter {
                        // It is the line's end too.
                        self.keys.push_front(b'\r');
                    }
                    return Ok(());
                }
            }
        }
    }
}

/// Keys that only change the line.
fn edit(line: &mut Line, key: Key) {
    match key {
        Key::Char(c) => line.insert(c.encode_utf8(&mut [0; 4])),
        Key::Backspace | Key::Ctrl('h') => line.backspace(),
        Key::Delete | Key::Ctrl('d') => line.delete(),
        Key::Left | Key::Ctrl('b') => line.left(),
        Key::Right | Key::Ctrl('f') => line.right(),
        Key::WordLeft => line.word_left(),
        Key::WordRight => line.word_right(),
        Key::Home | Key::Ctrl('a') => line.home(),
        Key::End | Key::Ctrl('e') => line.end(),
        Key::Ctrl('k') => line.delete_to_end(),
        Key::Ctrl('u') => line.delete_to_begin(),
        Key::Ctrl('w') => line.delete_word(),
        _ => {}
    }
}

impl Editing<'_> {
    /// Draws the line anew.
    fn show(&mut self) -> io::Result<()> {
        let width = width();
        let ((row, column), (last_row, last_column)) = self.line.places(self.prompt, width);
        let mut text = self.to_begin();
        text.push_str(&format!("\x1b[J{}{}", self.prompt, self.line.text()));
        if last_column == 0 && last_row > 0 {
            // A terminal waits with the next row until something is written there.
            text.push_str("\r\n");
        }
        if last_row > row {
            text.push_str(&format!("\x1b[{}A", last_row - row));
        }
        text.push('\r');
        if column > 0 {
            text.push_str(&format!("\x1b[{column}C"));
        }
        self.row = row;
        write(&text)
    }

    /// To the prompt's first column.
    fn to_begin(&self) -> String {
        if self.row > 0 { format!("\x1b[{}A\r", self.row) } else { "\r".to_owned() }
    }

    fn clear(&mut self) -> io::Result<()> {
        self.row = 0;
        write("\x1b[H\x1b[2J")
    }

    fn leave(&mut self, typed: Typed) -> io::Result<Typed> {
        self.line.end();
        self.show()?;
        write(match typed {
            Typed::Interrupted => "^C\r\n",
            _ => "\r\n",
        })?;
        Ok(typed)
    }

    fn recall(&mut self, past: &Past, by: isize) {
        if self.recalled == past.len() {
            self.typed = self.line.clone();
        }
        let Some(at) = self.recalled.checked_add_signed(by).filter(|at| *at <= past.len()) else { return };
        self.recalled = at;
        self.line = past.get(at).map_or_else(|| self.typed.clone(), Line::new);
    }

    /// Completes as far as all candidates agree; asked again, lists them.
    fn complete(&mut self, complete: &Complete<'_>, again: bool) -> io::Result<()> {
        let (from, candidates) = complete(self.line.before());
        let Some(common) = common_beginning(&candidates) else { return write("\x07") };
        if common.len() > self.line.before().len() - from || candidates.len() == 1 {
            self.line.replace_before(from, &common);
            if candidates.len() == 1 {
                self.line.insert(" ");
            }
            return Ok(());
        }
        if !again {
            return write("\x07");
        }
        let shown: Vec<&str> = candidates.iter().take(100).map(String::as_str).collect();
        let more = if candidates.len() > shown.len() { "  …" } else { "" };
        self.row = 0;
        write(&format!("\r\n{}{more}\r\n", shown.join("  ")))
    }
}

/// What all of them begin with, in the letters of the first.
fn common_beginning(candidates: &[String]) -> Option<String> {
    let (first, others) = candidates.split_first()?;
    let alike = |other: &String| {
        let pairs = first.chars().zip(other.chars());
        pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let common = others.iter().map(alike).min().unwrap_or(first.len());
    Some(first[..common].to_owned())
}

fn width() -> usize {
    terminal_size::terminal_size_of(stdout()).map_or(80, |(width, _)| usize::from(width.0).max(1))
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A line from a terminal that cannot move its cursor.
fn plain_line(prompt: &str) -> io::Result<Typed> {
    write(prompt)?;
    let mut line = String::new();
    match stdin().read_line(&mut line)? {
        0 => Ok(Typed::End),
        _ => Ok(Typed::Line(line.trim_end_matches(['\r', '\n']).to_owned())),
    }
}

/// A terminal that hands on each key as it is pressed; dropped, it is as before.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Raw> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
