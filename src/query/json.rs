//! PostgreSQL's operators on `json` and `jsonb` (manual, 9.16), whose values the archive keeps as text: `->`, `->>`, `#>`,
//! `#>>`, `@>`, `<@` and `?`.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use serde_json::Value as Json;

/// What an operator does with a document and its other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Get,
    GetText,
    Path,
    PathText,
    Contains,
    Contained,
    HasKey,
}

impl Operation {
    fn of(operator: &BinaryOperator) -> Option<Operation> {
        Some(match operator {
            BinaryOperator::Arrow => Operation::Get,
            BinaryOperator::LongArrow => Operation::GetText,
            BinaryOperator::HashArrow => Operation::Path,
            BinaryOperator::HashLongArrow => Operation::PathText,
            BinaryOperator::AtArrow => Operation::Contains,
            BinaryOperator::ArrowAt => Operation::Contained,
            BinaryOperator::Question => Operation::HasKey,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Operation::Get => "json_get",
            Operation::GetText => "json_get_text",
            Operation::Path => "json_path",
            Operation::PathText => "json_path_text",
            Operation::Contains => "json_contains",
            Operation::Contained => "json_contained",
            Operation::HasKey => "json_has_key",
        }
    }

    fn is_condition(self) -> bool {
        matches!(self, Operation::Contains | Operation::Contained | Operation::HasKey)
    }
}

/// Plans the operators where a text stands on their left side.
#[derive(Debug)]
pub(super) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expression: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let text = |side: &Expr| {
            side.get_type(schema)
                .is_ok_and(|of| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
        };
        match Operation::of(&expression.op) {
            Some(operation) if text(&expression.left) => {
                let function = Arc::new(ScalarUDF::new_from_impl(JsonFunction::new(operation)));
                let call = ScalarFunction::new_udf(function, vec![expression.left, expression.right]);
                Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
            }
            _ => Ok(PlannerResult::Original(expression)),
        }
    }
}

#[derive(Debug)]
struct JsonFunction {
    operation: Operation,
    signature: Signature,
}

impl JsonFunction {
    fn new(operation: Operation) -> JsonFunction {
        JsonFunction { operation, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl PartialEq for JsonFunction {
    fn eq(&self, other: &JsonFunction) -> bool {
        self.operation == other.operation
    }
}

impl Eq for JsonFunction {}

impl Hash for JsonFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operation.hash(state);
    }
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.operation.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.operation.is_condition() { DataType::Boolean } else { DataType::Utf8 })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let alone = arguments.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let [documents, other] = arguments.args.as_slice() else {
            return Err(DataFusionError::Plan("an operator on JSON has two sides".into()));
        };
        let count = if alone { 1 } else { rows };
        let documents = texts(documents, count)?;
        let other = other.to_array(count)?;
        let result = self.over(documents.as_string(), &other)?;
        match alone {
            true => ScalarValue::try_from_array(&result, 0).map(ColumnarValue::Scalar),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

fn texts(value: &ColumnarValue, rows: usize) -> Result<ArrayRef> {
    Ok(cast(&value.to_array(rows)?, &DataType::Utf8)?)
}

impl JsonFunction {
    fn over(&self, documents: &StringArray, other: &ArrayRef) -> Result<ArrayRef> {
        let numbers = other.data_type().is_integer().then(|| cast(other, &DataType::Int64)).transpose()?;
        let names = if numbers.is_none() { Some(cast(other, &DataType::Utf8)?) } else { None };
        let name = |row: usize| names.as_ref().map(|names| names.as_string::<i32>().value(row));
        // One other side for all rows is the usual case.
        let mut parsed: Option<(usize, Option<Json>)> = None;
        let mut document = |row: usize, text: &str| {
            let same = parsed.as_ref().is_some_and(|(at, _)| name(*at) == Some(text));
            if !same {
                parsed = Some((row, serde_json::from_str(text).ok()));
            }
            parsed.as_ref().and_then(|(_, json)| json.clone())
        };
        let mut found: Vec<Option<String>> = Vec::new();
        let mut holds: Vec<Option<bool>> = Vec::new();
        for row in 0..documents.len() {
            if documents.is_null(row) || other.is_null(row) {
                found.push(None);
                holds.push(None);
                continue;
            }
            let text = documents.value(row);
            let left = || serde_json::from_str::<Json>(text).ok();
            let place = || match &numbers {
                Some(numbers) => Step::Number(numbers.as_primitive::<Int64Type>().value(row)),
                None => Step::Name(name(row).unwrap_or_default()),
            };
            match self.operation {
                Operation::Get => found.push(step(text, place()).map(str::to_owned)),
                Operation::GetText => found.push(step(text, place()).and_then(text_of)),
                Operation::Path | Operation::PathText => {
                    let path = path_of(name(row).unwrap_or_default());
                    let at = path.iter().try_fold(text, |at, part| step(at, part.step()));
                    found.push(match self.operation {
                        Operation::Path => at.map(str::to_owned),
                        _ => at.and_then(text_of),
                    });
                }
                Operation::Contains | Operation::Contained => {
                    let right = document(row, name(row).unwrap_or_default());
                    let (outer, inner) =
                        if self.operation == Operation::Contains { (left(), right) } else { (right, left()) };
                    holds.push(outer.zip(inner).map(|(outer, inner)| contains(&outer, &inner, true)));
                }
                Operation::HasKey => holds.push(left().map(|left| match left {
                    Json::Object(fields) => name(row).is_some_and(|name| fields.contains_key(name)),
                    Json::Array(items) => items.iter().any(|item| item.as_str() == name(row)),
                    Json::String(text) => Some(text.as_str()) == name(row),
                    _ => false,
                })),
            }
        }
        Ok(match self.operation.is_condition() {
            true => Arc::new(BooleanArray::from(holds)),
            false => Arc::new(StringArray::from(found)),
        })
    }
}

/// One step into a document.
enum Step<'a> {
    Name(&'a str),
    Number(i64),
}

/// What a step leads to, as the document spells it: a number keeps its digits, which a parsed one would not. Of equal
/// names the last counts, as in `jsonb`.
fn step<'j>(document: &'j str, step: Step<'_>) -> Option<&'j str> {
    let document = document.trim();
    let items = || parts_of(document.strip_prefix('[')?.strip_suffix(']')?);
    let fields = || parts_of(document.strip_prefix('{')?.strip_suffix('}')?);
    match step {
        Step::Name(wanted) => fields()?.into_iter().rev().find_map(|field| {
            let end = end_of_value(field);
            let value = field[end..].trim_start().strip_prefix(':')?.trim();
            let name: String = serde_json::from_str(&field[..end]).ok()?;
            (name == wanted).then_some(value)
        }),
        Step::Number(at) => {
            let items = items()?;
            let at = if at < 0 { items.len() as i64 + at } else { at };
            usize::try_from(at).ok().and_then(|at| items.get(at).copied())
        }
    }
}

/// What commas separate inside a document's brackets. The document is one that PostgreSQL has accepted.
fn parts_of(inside: &str) -> Option<Vec<&str>> {
    let (mut parts, mut rest) = (Vec::new(), inside.trim());
    while !rest.is_empty() {
        let mut end = end_of_value(rest);
        if let Some(value) = rest[end..].trim_start().strip_prefix(':') {
            let start = rest.len() - value.trim_start().len();
            end = start + end_of_value(&rest[start..]);
        }
        parts.push(rest[..end].trim());
        rest = rest[end..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        if end == 0 {
            return None;
        }
    }
    Some(parts)
}

/// Where the value ends that the text begins with.
fn end_of_value(text: &str) -> usize {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for (at, c) in text.bytes().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => {
                in_text = !in_text;
                if !in_text && depth == 0 {
                    return at + 1;
                }
            }
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 1 => return at + 1,
            b']' | b'}' if depth == 0 => return at,
            b']' | b'}' => depth -= 1,
            b',' | b':' if depth == 0 => return at,
            c if depth == 0 && c.is_ascii_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// A part of a path: in an object its name, in an array its number.
struct Part(String);

impl Part {
    fn step(&self) -> Step<'_> {
        self.0.parse().map_or(Step::Name(&self.0), Step::Number)
    }
}

/// `{a,0,b}`, PostgreSQL's text of an array of names.
fn path_of(text: &str) -> Vec<Part> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
    let parts = inner.split(',').map(|part| part.trim().trim_matches('"'));
    if inner.is_empty() { Vec::new() } else { parts.map(|part| Part(part.to_owned())).collect() }
}

fn text_of(document: &str) -> Option<String> {
    match document {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        other => Some(other.to_owned()),
    }
}

/// Whether one document has all that another has (PostgreSQL manual, 8.14.3). At the top an array may contain a bare value.
fn contains(outer: &Json, inner: &Json, top: bool) -> bool {
    match (outer, inner) {
        (Json::Object(outer), Json::Object(inner)) => {
            inner.iter().all(|(name, value)| outer.get(name).is_some_and(|other| contains(other, value, false)))
        }
        (Json::Array(outer), Json::Array(inner)) => {
            inner.iter().all(|value| outer.iter().any(|other| contains(other, value, false)))
        }
        (Json::Array(outer), bare) if top && !bare.is_object() => outer.contains(bare),
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => outer == inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_the_spelling() {
        let document = r#" {"a": [1.50, {"b\"": "x,]}"}, []], "a, b": -1e3 , "z":null, "a ": {} } "#;
        enum To {
            Name(&'static str),
            Number(i64),
        }
        let one = |at, to: &To| match to {
            To::Name(name) => step(at, Step::Name(name)),
            To::Number(number) => step(at, Step::Number(*number)),
        };
        let at = |to: &[To]| to.iter().try_fold(document, one);
        use To::{Name, Number};
        assert_eq!(at(&[Name("a"), Number(0)]), Some("1.50"));
        assert_eq!(at(&[Name("a"), Number(1), Name("b\"")]), Some(r#""x,]}""#));
        assert_eq!(at(&[Name("a"), Number(-1)]), Some("[]"));
        assert_eq!(at(&[Name("a"), Number(3)]), None);
        assert_eq!(at(&[Name("a, b")]), Some("-1e3"));
        assert_eq!(at(&[Name("z")]), Some("null"));
        assert_eq!(at(&[Name("a ")]), Some("{}"));
        assert_eq!(at(&[Number(0)]), None);
        for broken in ["", "{", "[1", "{\"a\"}", "[,]", "{:}"] {
            let _ = (step(broken, Step::Name("a")), step(broken, Step::Number(0)));
        }
    }

    #[test]
    fn contains_as_postgresql_does() {
        let json = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        let holds = |outer: &str, inner: &str| contains(&json(outer), &json(inner), true);
        assert!(holds(r#"{"a": {"b": [1, 2, 3]}, "c": null}"#, r#"{"a": {"b": [3, 1]}}"#));
        assert!(holds(r#"[1, "x", {"y": 1}]"#, r#""x""#));
        assert!(holds("1.0", "1"));
        assert!(!holds(r#"{"a": 1}"#, r#"{"a": {"b": 1}}"#));
        assert!(!holds(r#"[[1]]"#, "1"));
        assert!(holds("[1, 1]", "[1]") && holds("[1]", "[1, 1]"));
    }
}
