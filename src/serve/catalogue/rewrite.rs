//! Questions to PostgreSQL's catalogue, brought into a form that the query engine plans.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, JoinOperator,
    ObjectName, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Value, visit_expressions,
    visit_expressions_mut, visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// What a text asks of the catalogue.
#[derive(Debug, PartialEq)]
pub(in crate::serve) enum Question {
    /// The engine can plan this; the tables that it mentions, without their schema.
    Plan { sql: String, tables: Vec<String> },
    /// It joins a table that has no rows here, so it gives none; the names of its columns.
    NoRows(Vec<String>),
}

/// Tables of the catalogue that have rows here.
const FILLED: [&str; 12] = [
    "pg_class",
    "pg_namespace",
    "pg_attribute",
    "pg_type",
    "pg_am",
    "pg_database",
    "pg_roles",
    "pg_user",
    "pg_settings",
    "pg_tables",
    "pg_description",
    "pg_attrdef",
];

/// Reads a statement. `None` where it concerns the archive, not the catalogue.
pub(in crate::serve) fn question(text: &str, user: &str, database: &str) -> Option<Question> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, text).ok()?;
    let (1, Some(mut statement)) = (parsed.len(), parsed.pop()) else { return None };
    let mut tables = Vec::new();
    let _ = visit_relations(&statement, |name| {
        tables.push(parts(name));
        ControlFlow::<()>::Continue(())
    });
    let ours = |parts: &Vec<String>| match parts.as_slice() {
        [schema, _] => schema == "pg_catalog",
        [name] => name.starts_with("pg_"),
        _ => false,
    };
    if !tables.iter().all(ours) || (tables.is_empty() && !asks_of_the_session(&statement)) {
        return None;
    }
    if let Statement::Query(query) = &mut statement {
        if let Some(columns) = without_rows(query) {
            return Some(Question::NoRows(columns));
        }
        forget_subqueries(query);
    }
    let _ = visit_expressions_mut(&mut statement, |expression| {
        rewrite(expression, user, database);
        ControlFlow::<()>::Continue(())
    });
    let mut tables: Vec<String> = tables.into_iter().filter_map(|mut parts| parts.pop()).collect();
    tables.sort();
    tables.dedup();
    Some(Question::Plan { sql: statement.to_string(), tables })
}

fn parts(name: &ObjectName) -> Vec<String> {
    let part = |part: &datafusion::sql::sqlparser::ast::ObjectNamePart| match part.as_ident() {
        Some(ident) if ident.quote_style.is_none() => ident.value.to_lowercase(),
        Some(ident) => ident.value.clone(),
        None => String::new(),
    };
    name.0.iter().map(part).collect()
}

/// Whether a statement without tables calls what only a server can answer.
fn asks_of_the_session(statement: &Statement) -> bool {
    let found = visit_expressions(statement, |expression| match expression {
        Expr::Function(function) if answer(function, "", "").is_some() => ControlFlow::Break(()),
        Expr::Identifier(ident) if session_word(&ident.value, "", "").is_some() => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// The names of the columns of a query that joins a table which is empty here.
fn without_rows(query: &Query) -> Option<Vec<String>> {
    let SetExpr::Select(select) = leftmost(&query.body)? else { return None };
    // An aggregate gives a row of nothing too.
    if select.projection.iter().any(aggregates) {
        return None;
    }
    Some(select.projection.iter().map(column_name).collect())
}

/// The first SELECT, where every one of them gives no rows.
fn leftmost(body: &SetExpr) -> Option<&SetExpr> {
    match body {
        SetExpr::Select(select) => joins_nothing(select).then_some(body),
        SetExpr::SetOperation { left, right, .. } => leftmost(left).filter(|_| leftmost(right).is_some()),
        SetExpr::Query(query) => leftmost(&query.body),
        _ => None,
    }
}

fn joins_nothing(select: &Select) -> bool {
    let is_empty = |factor: &TableFactor| match factor {
        TableFactor::Table { name, args: None, .. } => {
            parts(name).last().is_some_and(|name| name.starts_with("pg_") && !FILLED.contains(&name.as_str()))
        }
        _ => false,
    };
    select.from.iter().any(|from| {
        is_empty(&from.relation)
            || from.joins.iter().any(|join| {
                matches!(
                    join.join_operator,
                    JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
                ) && is_empty(&join.relation)
            })
    })
}

fn aggregates(item: &SelectItem) -> bool {
    let (SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. }) = item else {
        return false;
    };
    let found = visit_expressions(expression, |inner| match inner {
        // What a subquery aggregates is its own.
        Expr::Subquery(_) | Expr::Exists { .. } => ControlFlow::Break(false),
        Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => {
            ControlFlow::Break(false)
        }
        Expr::Function(function) => match parts(&function.name).pop().as_deref() {
            Some(
                "count" | "sum" | "min" | "max" | "avg" | "array_agg" | "string_agg" | "bool_and" | "bool_or"
                | "json_agg" | "jsonb_agg" | "every",
            ) => ControlFlow::Break(true),
            _ => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    });
    found == ControlFlow::Break(true)
}

fn column_name(item: &SelectItem) -> String {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => ident.value.clone(),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(idents)) => {
            idents.last().map(|ident| ident.value.clone()).unwrap_or_default()
        }
        _ => "?column?".to_owned(),
    }
}

/// Columns that a subquery computes speak of defaults, collations and the like, of which an archive has none.
fn forget_subqueries(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. } = item {
            let has_one = visit_expressions(expression, |inner| match inner {
                Expr::Subquery(_) | Expr::Exists { .. } => ControlFlow::Break(()),
                Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            });
            if has_one.is_break() {
                *expression = null();
            }
        }
    }
}

fn rewrite(expression: &mut Expr, user: &str, database: &str) {
    let replaced = match expression {
        Expr::Collate { expr, .. } => Some(std::mem::replace(expr.as_mut(), null())),
        Expr::Cast { expr, data_type, .. } => match cast(data_type) {
            Some(Some(other)) => {
                *data_type = other;
                None
            }
            // Numbers of objects and their names are shown as they are.
            Some(None) => Some(std::mem::replace(expr.as_mut(), null())),
            None => None,
        },
        Expr::BinaryOp { op, .. } => {
            if let BinaryOperator::PGCustomBinaryOperator(parts) = op {
                match parts.last().map(String::as_str) {
                    Some("~") => *op = BinaryOperator::PGRegexMatch,
                    Some("!~") => *op = BinaryOperator::PGRegexNotMatch,
                    Some("=") => *op = BinaryOperator::Eq,
                    _ => {}
                }
            }
            None
        }
        Expr::Identifier(ident) if ident.quote_style.is_none() => {
            session_word(&ident.value, user, database).map(|text| string(&text))
        }
        Expr::Function(function) => answer(function, user, database),
        _ => None,
    };
    if let Some(replaced) = replaced {
        *expression = replaced;
    }
}

/// What to cast to instead: another type, nothing at all, or the same.
fn cast(data_type: &DataType) -> Option<Option<DataType>> {
    let name = data_type.to_string().to_lowercase();
    match name.rsplit('.').next().unwrap_or_default() {
        "regclass" | "regtype" | "regproc" | "regnamespace" | "regrole" | "oid" | "name" | "\"char\"" | "xid" => {
            Some(None)
        }
        "text" if name != "text" => Some(Some(DataType::Text)),
        "int4" if name.contains('.') => Some(Some(DataType::Int(None))),
        "int8" if name.contains('.') => Some(Some(DataType::BigInt(None))),
        _ => None,
    }
}

fn session_word(word: &str, user: &str, database: &str) -> Option<String> {
    Some(match word.to_lowercase().as_str() {
        "current_user" | "session_user" | "current_role" => user.to_owned(),
        "current_catalog" => database.to_owned(),
        "current_schema" => "public".to_owned(),
        _ => return None,
    })
}

/// What a function of the server gives here.
fn answer(function: &Function, user: &str, database: &str) -> Option<Expr> {
    let name = parts(&function.name).pop()?;
    if let Some(text) = session_word(&name, user, database) {
        return Some(string(&text));
    }
    Some(match name.as_str() {
        "user" | "pg_get_userbyid" => string(user),
        "current_database" => string(database),
        "version" => string(&format!("PostgreSQL {}", crate::serve::SERVER_VERSION)),
        "pg_encoding_to_char" => string("UTF8"),
        "pg_is_in_recovery" | "pg_is_other_temp_schema" => boolean(false),
        "pg_my_temp_schema" | "pg_relation_size" | "pg_table_size" | "pg_total_relation_size" | "pg_backend_pid" => {
            parsed("0")?
        }
        "set_config" | "quote_ident" => {
            let at = usize::from(name == "set_config");
            arguments(function).into_iter().nth(at)?
        }
        "current_schemas" => parsed("make_array('pg_catalog', 'public')")?,
        "format_type" => format_type(arguments(function).into_iter().next()?)?,
        "obj_description"
        | "col_description"
        | "shobj_description"
        | "pg_get_expr"
        | "pg_get_viewdef"
        | "pg_get_indexdef"
        | "pg_get_constraintdef"
        | "pg_get_partkeydef"
        | "pg_get_serial_sequence"
        | "array_to_string"
        | "array_length"
        | "inet_server_addr"
        | "inet_client_addr" => null(),
        _ if name.ends_with("_is_visible") || name.starts_with("has_") && name.ends_with("_privilege") => boolean(true),
        _ => return unqualified(function),
    })
}

/// A function of `pg_catalog` that the engine may have under its bare name.
fn unqualified(function: &Function) -> Option<Expr> {
    let [schema, _] = function.name.0.as_slice() else { return None };
    if schema.as_ident().is_none_or(|ident| ident.value != "pg_catalog") {
        return None;
    }
    let mut function = function.clone();
    function.name.0.remove(0);
    Some(Expr::Function(function))
}

fn arguments(function: &Function) -> Vec<Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    let argument = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    list.args.iter().filter_map(argument).collect()
}

fn format_type(number: Expr) -> Option<Expr> {
    let cases: Vec<String> =
        super::TYPES.iter().map(|(known, _)| format!("WHEN {} THEN '{}'", known.oid, known.name)).collect();
    parsed(&format!("CASE {number} {} ELSE 'text' END", cases.join(" ")))
}

fn parsed(sql: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).ok()?.parse_expr().ok()
}

fn string(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

fn boolean(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).into())
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_archive_is_left_alone() {
        for sql in ["SELECT 1", "SELECT * FROM changes.orders", "SELECT * FROM information_schema.tables", "SELEC"] {
            assert_eq!(question(sql, "u", "d"), None, "{sql}");
        }
    }

    #[test]
    fn words_of_the_session_are_answered() {
        let sql = "SELECT current_database(), pg_catalog.version() IS NULL, current_user, set_config('a', 'b', false)";
        let Some(Question::Plan { sql, .. }) = question(sql, "it's", "d") else { panic!() };
        assert!(sql.starts_with("SELECT 'd', 'PostgreSQL ") && sql.ends_with("'it''s', 'b'"), "{sql}");
    }

    #[test]
    fn a_join_with_an_empty_table_has_no_rows() {
        let sql = "SELECT c.oid::pg_catalog.regclass, i.x AS y FROM pg_catalog.pg_class c, pg_catalog.pg_inherits i \
                   UNION SELECT pubname, NULL FROM pg_catalog.pg_publication";
        assert_eq!(question(sql, "u", "d"), Some(Question::NoRows(vec!["?column?".into(), "y".into()])));
        let left = "SELECT c.oid FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid";
        assert!(matches!(question(left, "u", "d"), Some(Question::Plan { .. })));
    }
}
