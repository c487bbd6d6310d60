//! What filters say of the values of single columns, for leaving out what statistics exclude. Everything that is said holds
//! for every row that passes; not everything is said.

use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;

use super::state::{text_of, values_of};
use crate::archive::Values;
use crate::columnar::{Bound, Storage};
use crate::history::{Condition, RangeOf};
use crate::model::Column;

/// The values that a table's columns must have.
pub(super) fn conditions_of(filters: &[Expr], columns: &[Column]) -> Vec<Condition> {
    let ordered: Vec<&Column> = columns.iter().filter(|column| Storage::of_column(column).is_ordered()).collect();
    let of = |filter| ordered.iter().filter_map(move |column| Some(((*column).clone(), sought(filter, column)?)));
    filters.iter().flat_map(of).collect()
}

fn sought(filter: &Expr, column: &Column) -> Option<Values> {
    let storage = Storage::of_column(column);
    if let Some(texts) = values_of(filter, column) {
        let bounds = texts.iter().map(|text| storage.bound(text)).collect::<Option<Vec<Bound>>>()?;
        return Some(Values::among(bounds));
    }
    let bound = |value: Option<&ScalarValue>| value.and_then(|value| storage.bound(&text_of(value, column)?));
    let (least, greatest) = ends(filter, &column.name)?;
    match (bound(least), bound(greatest)) {
        (None, None) => None,
        (least, greatest) => Some(Values::Between(least, greatest)),
    }
}

/// The range that filters leave a column of whole numbers or times, both ends included.
pub(super) fn range_of(filters: &[Expr], column: &str) -> RangeOf {
    let number = |value: &ScalarValue| match value {
        ScalarValue::Int64(number) | ScalarValue::TimestampMicrosecond(number, _) => *number,
        _ => None,
    };
    filters.iter().filter_map(|filter| ends(filter, column)).fold((None, None), |(least, greatest): RangeOf, ends| {
        let (from, to) = (ends.0.and_then(number), ends.1.and_then(number));
        (least.max(from), greatest.into_iter().chain(to).min())
    })
}

/// The least and the greatest value that a comparison leaves a column. What is below or above counts as if it were equal.
fn ends<'e>(filter: &'e Expr, column: &str) -> Option<(Option<&'e ScalarValue>, Option<&'e ScalarValue>)> {
    let is = |side: &Expr| matches!(side, Expr::Column(name) if name.name == column);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (value, op) = match (left.as_ref(), right.as_ref()) {
                (side, Expr::Literal(value, _)) if is(side) => (value, *op),
                (Expr::Literal(value, _), side) if is(side) => (value, op.swap()?),
                _ => return None,
            };
            match op {
                Operator::Eq => Some((Some(value), Some(value))),
                Operator::Gt | Operator::GtEq => Some((Some(value), None)),
                Operator::Lt | Operator::LtEq => Some((None, Some(value))),
                _ => None,
            }
        }
        Expr::Between(between) if !between.negated && is(&between.expr) => {
            match (between.low.as_ref(), between.high.as_ref()) {
                (Expr::Literal(low, _), Expr::Literal(high, _)) => Some((Some(low), Some(high))),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn ranges_are_cut_by_every_filter() {
        let filters =
            [col("n").gt(lit(3_i64)), lit(9_i64).gt_eq(col("n")), col("m").lt(lit(5_i64)), col("n").not_eq(lit(4_i64))];
        assert_eq!(range_of(&filters, "n"), (Some(3), Some(9)));
        assert_eq!(range_of(&filters, "m"), (None, Some(5)));
        assert_eq!(
            range_of(&[col("n").between(lit(1_i64), lit(2_i64)), col("n").eq(lit(2_i64))], "n"),
            (Some(2), Some(2))
        );
        assert_eq!(range_of(&[col("n").not_between(lit(1_i64), lit(2_i64))], "n"), (None, None));
        assert_eq!(range_of(&[col("n").lt(col("m"))], "n"), (None, None));
    }
}
