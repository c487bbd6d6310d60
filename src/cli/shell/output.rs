//! Where a shell's answers go, and in which form.

use std::io::{IsTerminal as _, Write, stdout};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;

use super::super::outfile::OutFile;
use super::super::output::{OutputForm, Printer, print_stream};
use super::super::pager::Pager;
use crate::failure::{Failure, Result};

/// See the module's documentation.
pub(super) struct Output {
    form: OutputForm,
    /// One line per value, whichever table is asked for else.
    expanded: bool,
    /// The width to cut or wrap at, where it is not the terminal's.
    columns: Option<usize>,
    pager: bool,
    /// Standard output, if `None`.
    file: Option<OutFile>,
    /// Whether an answer is there already.
    used: bool,
}

impl Output {
    pub(super) fn new(form: OutputForm) -> Output {
        Output { form, expanded: false, columns: None, pager: false, file: None, used: false }
    }

    /// Prints an answer.
    pub(super) async fn print(
        &mut self,
        schema: SchemaRef,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<()> {
        self.used = true;
        let (form, width) = (self.form(), self.width());
        match &mut self.file {
            Some(file) => print_stream(Printer::new(file, form, schema, width)?, batches).await,
            None => {
                let out: Box<dyn Write> = match self.pager && stdout().is_terminal() {
                    true => Box::new(Pager::start(true)),
                    false => Box::new(stdout()),
                };
                print_stream(Printer::new(out, form, schema, width)?, batches).await
            }
        }
        .map(drop)
    }

    fn form(&self) -> OutputForm {
        match self.form {
            OutputForm::Table | OutputForm::Unaligned | OutputForm::Wrapped if self.expanded => OutputForm::Expanded,
            form => form,
        }
    }

    /// Refuses what nobody could read, before anything is asked for it.
    pub(super) fn require_shown(&self) -> Result<()> {
        if !self.form.is_binary() {
            return Ok(());
        }
        if self.file.is_none() && stdout().is_terminal() {
            return Err(Failure::usage("parquet and arrow are binary and not for a terminal")
                .remedy("name a file: --output FILE, or \\o FILE"));
        }
        match self.used {
            true => Err(Failure::usage("a parquet or arrow file holds the answer to one statement")
                .remedy("name another file with \\o FILE before the next")),
            false => Ok(()),
        }
    }

    /// Answers go to a file from now on.
    pub(super) fn begin_file(&mut self, path: &Path) -> Result<()> {
        self.end_file()?;
        self.file = Some(OutFile::create(path)?);
        Ok(())
    }

    /// What went to a file is whole.
    pub(super) fn end_file(&mut self) -> Result<()> {
        self.used = false;
        self.file.take().map_or(Ok(()), OutFile::finish)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.end_file()
    }

    pub(super) fn set_form(&mut self, form: OutputForm) {
        self.form = form;
    }

    pub(super) fn toggle_aligned(&mut self) {
        self.form = if self.form == OutputForm::Unaligned { OutputForm::Table } else { OutputForm::Unaligned };
    }

    /// Sets it, or turns it round; what it is then.
    pub(super) fn expand(&mut self, on: Option<bool>) -> bool {
        self.expanded = on.unwrap_or(!self.expanded);
        self.expanded
    }

    pub(super) fn set_columns(&mut self, columns: Option<usize>) {
        self.columns = columns;
    }

    pub(super) fn page(&mut self, on: bool) {
        self.pager = on;
    }

    /// The width of the terminal that answers go to; `None` where they go elsewhere.
    fn width(&self) -> Option<usize> {
        let terminal = || terminal_size::terminal_size_of(stdout()).map(|(width, _)| width.0.into());
        self.columns.or_else(|| if self.file.is_none() { terminal() } else { None })
    }
}
