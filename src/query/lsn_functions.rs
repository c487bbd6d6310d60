//! `lsn('16/B374D848')` and `lsn_text(_lsn)`: SQL sees positions as integers, people write them in hexadecimal.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::cast::as_string_array;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

use crate::model::Lsn;

/// The functions to register with a session.
pub(super) fn all() -> [ScalarUDF; 2] {
    [
        create_udf(
            "lsn",
            vec![DataType::Utf8],
            DataType::Int64,
            Volatility::Immutable,
            Arc::new(|arguments| over_arrays(arguments, parse)),
        ),
        create_udf(
            "lsn_text",
            vec![DataType::Int64],
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(|arguments| over_arrays(arguments, show)),
        ),
    ]
}

/// Applies a function of one column; a literal stays a literal, so that it can prune files.
fn over_arrays(arguments: &[ColumnarValue], apply: fn(&ArrayRef) -> Result<ArrayRef>) -> Result<ColumnarValue> {
    let [argument] = arguments else {
        return Err(DataFusionError::Plan("the function takes one argument".into()));
    };
    match argument {
        ColumnarValue::Array(array) => apply(array).map(ColumnarValue::Array),
        ColumnarValue::Scalar(scalar) => {
            let result = apply(&scalar.to_array()?)?;
            datafusion::scalar::ScalarValue::try_from_array(&result, 0).map(ColumnarValue::Scalar)
        }
    }
}

fn parse(texts: &ArrayRef) -> Result<ArrayRef> {
    let parsed: Result<Int64Array> =
        as_string_array(texts)?.iter().map(|text| text.map(parse_one).transpose()).collect();
    Ok(Arc::new(parsed?))
}

fn parse_one(text: &str) -> Result<i64> {
    let lsn: Lsn = text.parse().map_err(|error| DataFusionError::Execution(format!("{text:?} is {error}")))?;
    Ok(lsn.as_i64())
}

fn show(positions: &ArrayRef) -> Result<ArrayRef> {
    let positions = positions.as_primitive::<Int64Type>();
    let shown: StringArray = positions.iter().map(|lsn| lsn.map(|lsn| Lsn::from_i64(lsn).to_string())).collect();
    Ok(Arc::new(shown))
}
