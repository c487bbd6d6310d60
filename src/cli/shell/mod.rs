//! `afterimage query` as psql is: statements and backslash commands, one after the other, from a terminal, a pipe or a file.

mod described;
mod meta;
mod output;
mod script;
mod words;

use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _, stdin, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::context::Context;
use super::editor::{Editor, Typed};
use super::output::OutputForm;
use super::session::Asking;
use super::state::state_directory;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::Point;
use crate::query::{Session, Tables};

use meta::Meta;
use output::Output;
use script::{Item, Script};
use words::Words;

/// Files that are run by files, at most; one that runs itself would never end.
const MOST_FILES: usize = 16;

/// See the module's documentation.
pub(super) struct Shell<'a> {
    context: &'a Context,
    archive: Archive,
    asking: Asking,
    /// Where tables are shown; where the archive is, if `None`.
    at: Option<Cut>,
    output: Output,
    timing: bool,
    /// Whether a person is typing, who is told what happened.
    watched: bool,
    /// The statement that ran last, for `\e`.
    last: String,
    files: usize,
}

/// What a shell begins with.
pub(super) struct ShellSettings {
    pub(super) at: Option<Point>,
    pub(super) form: OutputForm,
    pub(super) output: Option<PathBuf>,
    pub(super) memory: usize,
}

/// What an item led to: whether there is more to do.
type Flow = ControlFlow<()>;

impl<'a> Shell<'a> {
    /// Opens the archive.
    pub(super) async fn new(context: &'a Context, settings: ShellSettings) -> Result<Shell<'a>> {
        let mut output = Output::new(settings.form);
        if let Some(path) = &settings.output {
            output.begin_file(path)?;
        }
        output.require_shown()?;
        let archive = context.archive().await?;
        let at = match &settings.at {
            Some(point) => Some(context.resolve(&archive, point).await?),
            None => None,
        };
        let asking = Asking::new(context, &archive, at.clone(), settings.memory).await?;
        let (timing, watched, last, files) = (false, false, String::new(), 0);
        Ok(Shell { context, archive, asking, at, output, timing, watched, last, files })
    }

    /// Runs one statement, or one backslash command, that was given as a whole.
    pub(super) async fn one(mut self, text: &str) -> Result<()> {
        match text.trim().strip_prefix('\\') {
            Some(command) => drop(self.item(&mut Script::default(), Item::Command(command.to_owned())).await?),
            // Nothing has passed since the archive was opened.
            None => self.ask(self.asking.session.clone(), text).await?,
        }
        self.output.finish()
    }

    /// Runs what standard input has, up to the first failure; whether there was anything.
    pub(super) async fn piped(mut self) -> Result<bool> {
        let lines = stdin().lock().lines().map(|line| {
            line.map_err(|error| {
                Failure::usage(format!("reading statements from standard input: {error}")).remedy("write them in UTF-8")
            })
        });
        let ran = self.lines("standard input", lines).await?;
        self.output.finish()?;
        Ok(ran > 0)
    }

    /// Talks with a person until he leaves.
    pub(super) async fn interactive(mut self) -> Result<()> {
        self.watched = true;
        self.output.page(true);
        let words = self.words().await;
        let mut editor = Editor::new(state_directory().join("query-history"));
        self.say(&format!("afterimage {}: \\? lists the commands, \\q leaves\n", env!("CARGO_PKG_VERSION")))?;
        let mut script = Script::default();
        let mut typed: Vec<String> = Vec::new();
        loop {
            let prompt = self.prompt(&script);
            let line = editor.read_line(&prompt, &|before| words.complete(before));
            let line = line.map_err(|error| Failure::failed(format!("reading from the terminal: {error}")))?;
            let line = match line {
                Typed::Line(line) => line,
                Typed::Interrupted => {
                    (script, typed) = (Script::default(), Vec::new());
                    continue;
                }
                Typed::End => break,
            };
            let items = script.line(&line);
            typed.push(line);
            if script.sign() == '=' {
                remember(&mut editor, &std::mem::take(&mut typed));
            }
            if self.answer(&mut script, items).await.is_break() {
                break;
            }
        }
        self.output.finish()
    }

    /// Runs what was typed, until something fails or is cancelled.
    async fn answer(&mut self, script: &mut Script, items: Vec<Item>) -> Flow {
        for item in items {
            let done = tokio::select! {
                done = self.item(script, item) => done,
                _ = tokio::signal::ctrl_c() => Err(Failure::failed("cancelled")),
            };
            match done {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                Err(failure) => {
                    super::report(&failure);
                    break;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Runs lines up to the first failure; how many statements and commands there were.
    async fn lines(&mut self, name: &str, lines: impl Iterator<Item = Result<String>>) -> Result<usize> {
        let (mut script, mut ran) = (Script::default(), 0);
        let mut last = 0;
        for (at, line) in lines.enumerate() {
            last = at + 1;
            for item in script.line(&line?) {
                ran += 1;
                let done = Box::pin(self.item(&mut script, item)).await;
                if done.map_err(|failure| failure.context(format_args!("{name}:{last}")))?.is_break() {
                    return Ok(ran);
                }
            }
        }
        if let Some(sql) = script.end() {
            ran += 1;
            self.statement(&sql).await.map_err(|failure| failure.context(format_args!("{name}:{last}")))?;
        }
        Ok(ran)
    }

    async fn item(&mut self, script: &mut Script, item: Item) -> Result<Flow> {
        match item {
            Item::Statement(sql) => self.statement(&sql).await.map(ControlFlow::Continue),
            Item::Command(text) => self.command(script, Meta::parse(&text)?).await,
        }
    }

    async fn statement(&mut self, sql: &str) -> Result<()> {
        self.output.require_shown()?;
        sql.clone_into(&mut self.last);
        let session = self.session().await?;
        self.ask(session, sql).await
    }

    async fn ask(&mut self, session: Session, sql: &str) -> Result<()> {
        let started = Instant::now();
        let result = session.sql(sql).await?;
        self.output.print(result.schema, result.batches).await?;
        if self.timing {
            let took = format!("Time: {:.3} ms\n", started.elapsed().as_secs_f64() * 1000.0);
            if self.watched { self.say(&took)? } else { super::progress::say(took.trim_end()) }
        }
        Ok(())
    }

    /// The archive as it is now, or at the session's point.
    async fn session(&self) -> Result<Session> {
        self.asking.again(self.context, &self.archive, self.at.clone()).await
    }

    async fn command(&mut self, script: &mut Script, meta: Meta) -> Result<Flow> {
        match meta {
            Meta::Quit => return Ok(ControlFlow::Break(())),
            Meta::Describe { what, only_tables } => self.describe(what, only_tables).await?,
            Meta::At(point) => self.move_to(point).await?,
            Meta::Expanded(on) => {
                let on = self.output.expand(on);
                self.notice(format_args!("Expanded display is {}.", on_off(on)))?;
            }
            Meta::Timing(on) => {
                self.timing = on.unwrap_or(!self.timing);
                self.notice(format_args!("Timing is {}.", on_off(self.timing)))?;
            }
            Meta::Form(form) => self.output.set_form(form),
            Meta::Aligned => self.output.toggle_aligned(),
            Meta::Columns(width) => self.output.set_columns(width),
            Meta::Pager(on) => self.output.page(on.unwrap_or(true) && self.watched),
            Meta::Include(path) => return self.include(Path::new(&path)).await,
            Meta::Output(path) => match path {
                Some(path) => self.output.begin_file(Path::new(&path))?,
                None => self.output.end_file()?,
            },
            Meta::Edit => return self.edit(script).await,
            Meta::Go => {
                if let Some(sql) = script.end() {
                    self.statement(&sql).await?;
                }
            }
            Meta::Print => self.say(&format!("{}\n", script.statement()))?,
            Meta::Reset => *script = Script::default(),
            Meta::Echo(text) => self.say(&format!("{text}\n"))?,
            Meta::Help => self.say(meta::HELP)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn describe(&mut self, what: Option<String>, only_tables: bool) -> Result<()> {
        let stored = |name: &str| ["afterimage.", "changes.", "images."].iter().any(|kind| name.starts_with(kind));
        let one = what.as_deref().filter(|what| !only_tables && !what.contains('*'));
        let cut = match &self.at {
            Some(cut) => cut.lsn,
            None => self.archive.watermark().await?.lsn,
        };
        let batch = match one {
            Some(name) if stored(name) => {
                let result = self.session().await?.sql(&format!("DESCRIBE {name}")).await?;
                return self.output.print(result.schema, result.batches).await;
            }
            Some(name) => described::columns(&self.archive, cut, name).await?,
            None => {
                let view: &dyn Tables = self.asking.tables.as_ref();
                described::listing(&self.archive, view, cut, what.as_deref(), only_tables).await?
            }
        };
        let rows: BoxStream<'static, Result<RecordBatch>> = futures::stream::iter([Ok(batch.clone())]).boxed();
        self.output.print(batch.schema(), rows).await
    }

    async fn move_to(&mut self, point: Option<String>) -> Result<()> {
        self.at = match point {
            Some(text) => {
                let point = Point::parse(&text, chrono::Utc::now());
                let point = point.map_err(|error| {
                    Failure::usage(error.to_string()).remedy("such as \\at 2025-10-09T14:00Z, 15m ago or mark:NAME")
                })?;
                let cut = self.context.resolve(&self.archive, &point).await?;
                self.notice(format_args!("{}", cut.describe()))?;
                Some(cut)
            }
            None => None,
        };
        Ok(())
    }

    async fn include(&mut self, path: &Path) -> Result<Flow> {
        let name = path.display().to_string();
        let unread =
            |why: String| Failure::usage(format!("{name}: {why}")).remedy("name a file of statements in UTF-8");
        if self.files >= MOST_FILES {
            return Err(unread("too many files run each other".to_owned()));
        }
        let text = fs::read_to_string(path).map_err(|error| unread(error.to_string()))?;
        self.files += 1;
        let ran = Box::pin(self.lines(&name, text.lines().map(|line| Ok(line.to_owned())))).await;
        self.files -= 1;
        ran.map(|_| ControlFlow::Continue(()))
    }

    /// `\e`: what is begun, or else what ran last, in the person's editor; what comes back is as if typed.
    async fn edit(&mut self, script: &mut Script) -> Result<Flow> {
        if !self.watched {
            return Err(Failure::usage("\\e is for a terminal").remedy("\\? lists the commands"));
        }
        let begun = match script.statement() {
            "" => format!("{};\n", self.last),
            begun => format!("{begun}\n"),
        };
        let text = edited(&begun)?;
        *script = Script::default();
        for line in text.lines() {
            for item in script.line(line) {
                if Box::pin(self.item(script, item)).await?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// `shop=> `; with the point where there is one, with psql's sign of what is open.
    fn prompt(&self, script: &Script) -> String {
        let database = &self.archive.identity().database;
        let at = self.at.as_ref().map_or_else(String::new, |cut| format!("@{}", cut.point));
        format!("{database}{at}{}> ", script.sign()).chars().filter(|c| !c.is_control()).collect()
    }

    /// What Tab completes to. Where the archive does not tell, there is less of it.
    async fn words(&self) -> Words {
        let mut words = Words { functions: self.asking.session.functions().into_iter().collect(), ..Words::default() };
        if let Ok(tables) = self.asking.tables.list().await {
            words.tables = tables.iter().map(ToString::to_string).collect();
        }
        if let Ok(tables) = self.archive.tables_ever().await {
            words.columns =
                tables.values().flat_map(|table| &table.columns).map(|column| column.name.clone()).collect();
        }
        words
    }

    fn notice(&self, text: std::fmt::Arguments<'_>) -> Result<()> {
        if self.watched { self.say(&format!("{text}\n")) } else { Ok(()) }
    }

    fn say(&self, text: &str) -> Result<()> {
        let mut out = stdout().lock();
        super::output::is_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(drop)
    }
}

/// Whether a person types and reads.
pub(super) fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A statement of several lines is one to come back to, unless a comment would then swallow its rest.
fn remember(editor: &mut Editor, lines: &[String]) {
    match lines.iter().any(|line| line.contains("--")) {
        true => lines.iter().for_each(|line| editor.remember(line)),
        false => editor.remember(&lines.join(" ")),
    }
}

/// A text after a person has edited it.
fn edited(text: &str) -> Result<String> {
    let fail = |error: std::io::Error| Failure::failed(format!("editing the statement: {error}"));
    let file = tempfile::Builder::new().prefix("afterimage-").suffix(".sql").tempfile().map_err(fail)?;
    fs::write(file.path(), text).map_err(fail)?;
    let named = |name: &str| std::env::var(name).ok().filter(|editor| !editor.is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let ended = Command::new("sh").args(["-c", &format!("{editor} \"$0\"")]).arg(file.path()).status().map_err(fail)?;
    match ended.success() {
        true => fs::read_to_string(file.path()).map_err(fail),
        false => Err(Failure::failed("the editor failed; nothing is run").remedy("name another in EDITOR")),
    }
}
