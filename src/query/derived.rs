//! What a query writes where a table stands and what is no stored table: a state at a point, and the functions of history.
//!
//! They are found in the parsed statement and given names of their own, so that they can be opened before the statement is
//! planned: planning cannot wait.

use std::fmt;
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor, TableVersion,
    Value, VisitMut as _, VisitorMut,
};

use super::catalog::{DEFAULT_CATALOG, DERIVED_SCHEMA};
use crate::failure::{Failure, Result};
use crate::model::{Point, TableName};

/// What is made of a table's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// The rows at a point.
    AsOf,
    /// The changes between two points, each with the row before and after.
    Changes,
    /// The versions of rows between two points, with the time in which each held.
    Versions,
    /// What differs between the states at two points.
    Diff,
}

impl Function {
    pub(super) const ALL: [Function; 4] = [Function::AsOf, Function::Changes, Function::Versions, Function::Diff];

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Function::AsOf => "as_of",
            Function::Changes => "changes",
            Function::Versions => "versions",
            Function::Diff => "diff",
        }
    }

    /// How it is written.
    pub fn usage(self) -> &'static str {
        match self {
            Function::AsOf => "as_of('table', 'point')",
            Function::Changes => "changes('table'[, 'from'[, 'to']])",
            Function::Versions => "versions('table'[, 'from'[, 'to']])",
            Function::Diff => "diff('table', 'from'[, 'to'])",
        }
    }

    fn takes(self, points: usize) -> bool {
        match self {
            Function::AsOf => points == 1,
            Function::Changes | Function::Versions => points <= 2,
            Function::Diff => points == 1 || points == 2,
        }
    }
}

/// Something made of one table's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    pub function: Function,
    pub table: TableName,
    /// Where it is asked for; of a range its beginning and its end. What is left out is the archive's beginning or the
    /// session's own point.
    pub points: Vec<Point>,
}

impl Derived {
    /// A table's rows at the session's own point.
    pub fn state(table: TableName) -> Derived {
        Derived { function: Function::AsOf, table, points: Vec::new() }
    }
}

/// The name that stands in the query for it.
impl fmt::Display for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}", self.function.name(), self.table)?;
        self.points.iter().try_for_each(|point| write!(f, ", {point}"))?;
        f.write_str(")")
    }
}

/// Gives everything derived in a statement a name, and says what it is.
///
/// # Errors
/// Usage where the arguments are not what the function takes.
pub(super) fn name_derived(statement: &mut Statement, now: DateTime<Utc>) -> Result<Vec<Derived>> {
    let mut naming = Naming { now, found: Vec::new() };
    match visit(statement, &mut naming) {
        ControlFlow::Continue(()) => Ok(naming.found),
        ControlFlow::Break(failure) => Err(*failure),
    }
}

fn visit(statement: &mut Statement, naming: &mut Naming) -> ControlFlow<Box<Failure>> {
    match statement {
        Statement::Statement(sql) => sql.visit(naming),
        Statement::Explain(explain) => visit(&mut explain.statement, naming),
        _ => ControlFlow::Continue(()),
    }
}

struct Naming {
    now: DateTime<Utc>,
    found: Vec<Derived>,
}

impl VisitorMut for Naming {
    type Break = Box<Failure>;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Box<Failure>> {
        match self.derived(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => ControlFlow::Break(Box::new(failure)),
        }
    }
}

impl Naming {
    fn derived(&mut self, factor: &mut TableFactor) -> Result<()> {
        let TableFactor::Table { name, alias, args, version, .. } = factor else { return Ok(()) };
        let (derived, shown) = if let Some(version) = version.take() {
            let TableVersion::ForSystemTimeAsOf(point) = version else {
                return Err(
                    Failure::usage(format!("{version} is not known here")).remedy("FOR SYSTEM_TIME AS OF 'point'")
                );
            };
            let table = table_of(name)?;
            let shown = table.table.clone();
            (Derived { function: Function::AsOf, table, points: vec![self.point(&text_of(&point)?)?] }, shown)
        } else if let (Some(arguments), Some(function)) = (&*args, function_named(name)) {
            let texts = arguments.args.iter().map(text_of_argument).collect::<Result<Vec<_>>>();
            let texts = texts.map_err(|failure| failure.remedy(function.usage()))?;
            let derived = self.call(function, &texts)?;
            let shown = if function == Function::AsOf { &derived.table.table } else { function.name() };
            let shown = shown.to_owned();
            (derived, shown)
        } else {
            return Ok(());
        };
        *args = None;
        let part = |text: &str| ObjectNamePart::Identifier(Ident::with_quote('"', text));
        *name = ObjectName(vec![part(DEFAULT_CATALOG), part(DERIVED_SCHEMA), part(&derived.to_string())]);
        let implied =
            TableAlias { explicit: false, name: Ident::with_quote('"', shown), columns: Vec::new(), at: None };
        alias.get_or_insert(implied);
        if !self.found.contains(&derived) {
            self.found.push(derived);
        }
        Ok(())
    }

    fn call(&self, function: Function, texts: &[String]) -> Result<Derived> {
        let wrong = |cause: String| Failure::usage(cause).remedy(function.usage());
        let Some((table, points)) = texts.split_first().filter(|(_, points)| function.takes(points.len())) else {
            return Err(wrong(format!("{} takes a table and points", function.name())));
        };
        let table = TableName::written(table).ok_or_else(|| wrong(format!("{table:?} is not the name of a table")))?;
        let points = points.iter().map(|point| self.point(point)).collect::<Result<_>>()?;
        Ok(Derived { function, table, points })
    }

    fn point(&self, text: &str) -> Result<Point> {
        Point::parse(text, self.now).map_err(|error| {
            Failure::usage(error.to_string()).remedy("a point is written as in every command; see afterimage --help")
        })
    }
}

fn function_named(name: &ObjectName) -> Option<Function> {
    let [part] = name.0.as_slice() else { return None };
    let ident = part.as_ident()?;
    Function::ALL.into_iter().find(|function| ident.value.eq_ignore_ascii_case(function.name()))
}

/// An unquoted name is folded as PostgreSQL folds it.
fn table_of(name: &ObjectName) -> Result<TableName> {
    let folded = |part: &ObjectNamePart| {
        let ident = part.as_ident()?;
        Some(if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
    };
    let parts: Option<Vec<String>> = name.0.iter().map(folded).collect();
    match parts.as_deref() {
        Some([table]) => Ok(TableName::new("public", table)),
        Some([schema, table]) => Ok(TableName::new(schema, table)),
        _ => {
            Err(Failure::usage(format!("{name} is not the name of a table"))
                .remedy("schema.table, or table for public's"))
        }
    }
}

fn text_of_argument(argument: &FunctionArg) -> Result<String> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => text_of(expression),
        other => Err(Failure::usage(format!("{other} is not a text"))),
    }
}

fn text_of(expression: &Expr) -> Result<String> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Ok(text.clone()),
            Value::DollarQuotedString(text) => Ok(text.value.clone()),
            other => Err(not_a_text(&other.to_string())),
        },
        // TIMESTAMP '…'
        Expr::TypedString(typed) => match &typed.value.value {
            Value::SingleQuotedString(text) => Ok(text.clone()),
            other => Err(not_a_text(&other.to_string())),
        },
        other => Err(not_a_text(&other.to_string())),
    }
}

fn not_a_text(found: &str) -> Failure {
    Failure::usage(format!("{found} stands where a point or a table is expected, in quotes"))
        .remedy("such as '2025-10-09T14:00:00Z', '15m ago', 'before:4711' or 'mark:NAME'")
}
