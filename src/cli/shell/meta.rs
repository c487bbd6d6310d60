//! Backslash commands, by psql's names.

use super::super::output::OutputForm;
use crate::failure::{Failure, Result};

/// A backslash command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meta {
    /// `\d` and `\dt`: the tables, those of a pattern, or one table's columns.
    Describe {
        what: Option<String>,
        only_tables: bool,
    },
    /// `\at`: the session's point, or where the archive is.
    At(Option<String>),
    /// `\x`, `\timing`: on, off, or the other way round.
    Expanded(Option<bool>),
    Timing(Option<bool>),
    Form(OutputForm),
    /// `\a`: aligned or not.
    Aligned,
    Columns(Option<usize>),
    Pager(Option<bool>),
    Include(String),
    Output(Option<String>),
    /// `\e`: the statement in an editor.
    Edit,
    /// `\g`: runs what was begun.
    Go,
    /// `\p` shows and `\r` forgets what was begun.
    Print,
    Reset,
    Echo(String),
    Help,
    Quit,
}

/// What `\?` prints.
pub(super) const HELP: &str = "\
A statement ends in ; and may have several lines. Tab completes, Ctrl-C cancels, Ctrl-R searches what was typed before.
  \\d                    list tables and the archive's logs, at the session's point
  \\d TABLE              its columns, types and key
  \\dt [PATTERN]         list tables: orders, sales.*
  \\at POINT             show tables as they were: 2025-10-09T14:00Z, 15m ago, before:742, mark:NAME
  \\at                   show them where the archive is
  \\x [on|off]           one line per value
  \\a                    aligned columns or not
  \\pset format FORMAT   aligned, unaligned, wrapped, expanded, csv, json; with \\o parquet and arrow too
  \\pset columns N       the width to cut or wrap at
  \\pset pager on|off    long answers through a pager, on a terminal
  \\timing [on|off]      how long each statement takes
  \\i FILE               run a file's statements and commands
  \\o FILE               write answers to a file, until \\o alone
  \\e                    edit the statement in $EDITOR
  \\g                    run what is typed so far; \\p shows and \\r forgets it
  \\echo TEXT            print a line
  \\q                    leave
";

impl Meta {
    /// Reads a command without its backslash.
    ///
    /// # Errors
    /// Usage where there is no such command, or not with this argument.
    pub(super) fn parse(text: &str) -> Result<Meta> {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let argument = (!rest.is_empty()).then(|| unquoted(rest.trim_end_matches(';').trim_end()));
        let switch = || argument.as_deref().map(|text| on_or_off(name, text)).transpose();
        let named = |what: &str| argument.clone().ok_or_else(|| wrong(format!("\\{name} needs {what}")));
        Ok(match name.trim_end_matches(';') {
            "d" | "d+" => Meta::Describe { what: argument, only_tables: false },
            "dt" | "dt+" => Meta::Describe { what: argument, only_tables: true },
            "at" => Meta::At(argument),
            "x" => Meta::Expanded(switch()?),
            "timing" => Meta::Timing(switch()?),
            "a" => Meta::Aligned,
            "pset" => Meta::set(rest)?,
            "i" | "include" => Meta::Include(named("a file")?),
            "o" | "out" => Meta::Output(argument),
            "e" | "edit" => Meta::Edit,
            "g" => Meta::Go,
            "p" | "print" => Meta::Print,
            "r" | "reset" => Meta::Reset,
            "echo" => Meta::Echo(argument.unwrap_or_default()),
            "?" | "h" | "help" => Meta::Help,
            "q" | "quit" => Meta::Quit,
            _ => return Err(wrong(format!("\\{name} is no command here"))),
        })
    }

    fn set(text: &str) -> Result<Meta> {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let value = value.trim();
        match name {
            "format" => {
                let form = <OutputForm as clap::ValueEnum>::from_str(value, true);
                form.map(Meta::Form).map_err(|_| wrong(format!("{value:?} is no format")))
            }
            "columns" => match value.parse::<usize>() {
                Ok(width) => Ok(Meta::Columns((width > 0).then_some(width))),
                Err(_) => Err(wrong(format!("{value:?} is no number of columns"))),
            },
            "pager" => (!value.is_empty()).then(|| on_or_off("pset pager", value)).transpose().map(Meta::Pager),
            "expanded" | "x" => {
                (!value.is_empty()).then(|| on_or_off("pset expanded", value)).transpose().map(Meta::Expanded)
            }
            _ => Err(wrong(format!("\\pset {name} is not known here"))),
        }
    }
}

fn wrong(cause: String) -> Failure {
    Failure::usage(cause).remedy("\\? lists the commands")
}

fn on_or_off(name: &str, text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err(wrong(format!("\\{name} takes on or off, and not {text:?}"))),
    }
}

/// A pair of quotes around an argument is not its own.
fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    inner.map_or_else(|| text.to_owned(), |inner| inner.replace("''", "'"))
}

/// The commands, for completion.
pub(super) const NAMES: [&str; 16] = [
    "\\?", "\\a", "\\at", "\\d", "\\dt", "\\e", "\\echo", "\\g", "\\i", "\\o", "\\p", "\\pset", "\\q", "\\r",
    "\\timing", "\\x",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_psqls() {
        let describe = |what: Option<&str>, only_tables| Meta::Describe { what: what.map(str::to_owned), only_tables };
        for (text, meta) in [
            ("d", describe(None, false)),
            ("d  sales.orders ", describe(Some("sales.orders"), false)),
            ("dt sales.*;", describe(Some("sales.*"), true)),
            ("x", Meta::Expanded(None)),
            ("timing on", Meta::Timing(Some(true))),
            ("at '15m ago'", Meta::At(Some("15m ago".into()))),
            ("at 15m ago", Meta::At(Some("15m ago".into()))),
            ("pset format CSV", Meta::Form(OutputForm::Csv)),
            ("pset format aligned", Meta::Form(OutputForm::Table)),
            ("pset columns 0", Meta::Columns(None)),
            ("pset pager off", Meta::Pager(Some(false))),
            ("o", Meta::Output(None)),
            ("i 'it''s.sql'", Meta::Include("it's.sql".into())),
            ("q;", Meta::Quit),
        ] {
            assert_eq!(Meta::parse(text).unwrap(), meta, "{text}");
        }
        for wrong in ["", "nonsense", "i", "x maybe", "pset", "pset format xls", "pset columns many"] {
            assert!(Meta::parse(wrong).is_err(), "{wrong}");
        }
        assert!(NAMES.iter().all(|name| HELP.contains(name) || *name == "\\?"), "all are explained");
    }
}
