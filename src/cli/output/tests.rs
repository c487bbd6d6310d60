use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use futures::stream;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn print(form: OutputForm, width: Option<usize>, batches: &[RecordBatch]) -> String {
    let mut out = Vec::new();
    let mut printer = Printer::new(&mut out, form, batches[0].schema(), width).unwrap();
    for batch in batches {
        assert_eq!(printer.write(batch).unwrap(), ControlFlow::Continue(()));
    }
    printer.finish().unwrap();
    String::from_utf8(out).unwrap()
}

fn orders() -> RecordBatch {
    let instants =
        TimestampMicrosecondArray::from(vec![Some(1_760_018_580_000_000), Some(1_760_018_580_250_000), None]);
    let amounts = Decimal128Array::from(vec![Some(150), Some(-99), None]).with_precision_and_scale(10, 2).unwrap();
    batch(vec![
        ("_lsn", Arc::new(Int64Array::from(vec![Some(0x16_B374_D848), Some(1), None]))),
        ("id", Arc::new(Int64Array::from(vec![1, 20, 300]))),
        ("name", Arc::new(StringArray::from(vec![Some("a, \"b\""), Some(""), None]))),
        ("amount", Arc::new(amounts)),
        ("_ts", Arc::new(instants.with_timezone("UTC"))),
    ])
}

#[test]
fn a_table_is_aligned_as_psql_does() {
    let expected = "    _lsn     | id  |  name  | amount |           _ts
-------------+-----+--------+--------+--------------------------
 16/B374D848 |   1 | a, \"b\" |   1.50 | 2025-10-09T14:03:00Z
 0/1         |  20 |        |  -0.99 | 2025-10-09T14:03:00.250Z
             | 300 |        |        |
(3 rows)
";
    assert_eq!(print(OutputForm::Table, None, &[orders()]), expected);
}

#[test]
fn csv_tells_null_from_empty() {
    let expected = "\
_lsn,id,name,amount,_ts
16/B374D848,1,\"a, \"\"b\"\"\",1.50,2025-10-09T14:03:00Z
0/1,20,\"\",-0.99,2025-10-09T14:03:00.250Z
,300,,,
";
    assert_eq!(print(OutputForm::Csv, Some(10), &[orders()]), expected);
}

#[test]
fn json_has_every_key_in_every_row() {
    let text = print(OutputForm::Json, None, &[orders()]);
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["_lsn"], "16/B374D848");
    assert_eq!(rows[0]["id"], 1);
    assert_eq!(rows[1]["_ts"], "2025-10-09T14:03:00.250Z");
    assert_eq!(rows[1]["name"], "");
    assert_eq!(rows[1]["amount"].to_string(), "-0.99");
    for key in ["_lsn", "name", "amount", "_ts"] {
        assert_eq!(rows[2].get(key), Some(&serde_json::Value::Null), "{key}");
    }
}

#[test]
fn json_keeps_what_json_has_no_number_for() {
    let floats = Float64Array::from(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1, 1e300]);
    let text = print(OutputForm::Json, None, &[batch(vec![("f", Arc::new(floats))])]);
    let expected = ["{\"f\":\"NaN\"}", "{\"f\":\"Infinity\"}", "{\"f\":\"-Infinity\"}", "{\"f\":0.1}", "{\"f\":1e300}"];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn other_zones_are_shown_in_utc() {
    let instants = TimestampMicrosecondArray::from(vec![0]).with_timezone("+02:00");
    let batch = batch(vec![("t", Arc::new(instants))]);
    for form in [OutputForm::Table, OutputForm::Csv, OutputForm::Json] {
        assert!(print(form, None, std::slice::from_ref(&batch)).contains("1970-01-01T00:00:00Z"), "{form:?}");
    }
}

#[test]
fn nested_values_and_truths_have_a_form() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]);
    let batch = batch(vec![("list", Arc::new(list)), ("yes", Arc::new(BooleanArray::from(vec![true])))]);
    assert_eq!(print(OutputForm::Json, None, std::slice::from_ref(&batch)), "{\"list\":[1,null],\"yes\":true}\n");
    assert!(print(OutputForm::Table, None, &[batch]).contains("| true"));
}

#[test]
fn an_empty_answer_still_shows_its_columns() {
    let none = orders().slice(0, 0);
    assert!(print(OutputForm::Table, None, std::slice::from_ref(&none)).ends_with("\n(0 rows)\n"));
    assert_eq!(print(OutputForm::Csv, None, std::slice::from_ref(&none)), "_lsn,id,name,amount,_ts\n");
    assert_eq!(print(OutputForm::Json, None, &[none]), "");
}

#[test]
fn a_terminal_gets_lines_that_fit_and_a_file_gets_them_whole() {
    let wide = "x".repeat(200);
    let columns = || -> Vec<(&str, ArrayRef)> {
        vec![("id", Arc::new(Int64Array::from(vec![7]))), ("text", Arc::new(StringArray::from(vec![wide.as_str()])))]
    };
    let on_terminal = print(OutputForm::Table, Some(40), &[batch(columns())]);
    assert!(on_terminal.lines().all(|line| line.chars().count() <= 40), "{on_terminal}");
    assert!(on_terminal.contains('…'));
    assert!(print(OutputForm::Table, None, &[batch(columns())]).contains(&wide));
}

#[test]
fn wrapped_cells_go_on_below() {
    let batch = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2]))),
        ("text", Arc::new(StringArray::from(vec!["0123456789abcdef日本", "short"]))),
    ]);
    let expected = " id |    text
----+------------
  1 | 0123456789.
    |.abcdef日本
  2 | short
(2 rows)
";
    assert_eq!(print(OutputForm::Wrapped, Some(17), std::slice::from_ref(&batch)), expected);
    let whole = print(OutputForm::Wrapped, None, &[batch]);
    assert!(whole.contains("  1 | 0123456789abcdef日本\n"), "{whole}");
}

#[test]
fn expanded_and_unaligned_as_psql_does() {
    let batch = batch(vec![
        ("a_longer_name", Arc::new(Int64Array::from(vec![Some(7), None]))),
        ("b", Arc::new(StringArray::from(vec!["x\ny", "z"]))),
    ]);
    let expected = "-[ RECORD 1 ]-+-----
a_longer_name | 7
b             | x\\ny
-[ RECORD 2 ]-+--
a_longer_name |
b             | z
";
    assert_eq!(print(OutputForm::Expanded, Some(10), std::slice::from_ref(&batch)), expected);
    let expected = "a_longer_name|b\n7|x\\ny\n|z\n(2 rows)\n";
    assert_eq!(print(OutputForm::Unaligned, None, std::slice::from_ref(&batch)), expected);
    assert_eq!(print(OutputForm::Expanded, None, &[batch.slice(0, 0)]), "(0 rows)\n");
}

#[test]
fn files_of_columns_hold_what_they_were_given() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let bytes = |form| {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, form, orders().schema(), None).unwrap();
        for batch in [orders(), orders().slice(1, 1)] {
            assert_eq!(printer.write(&batch).unwrap(), ControlFlow::Continue(()));
        }
        assert_eq!(printer.finish().unwrap(), 4);
        out
    };
    let expected = arrow::compute::concat_batches(&orders().schema(), &[orders(), orders().slice(1, 1)]).unwrap();
    let parquet = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes(OutputForm::Parquet))).unwrap();
    assert_eq!(parquet.build().unwrap().next().unwrap().unwrap(), expected);
    let file = std::io::Cursor::new(bytes(OutputForm::Arrow));
    let arrow = arrow::ipc::reader::FileReader::try_new(file, None).unwrap();
    let read: Vec<RecordBatch> = arrow.map(Result::unwrap).collect();
    assert_eq!(arrow::compute::concat_batches(&orders().schema(), &read).unwrap(), expected);
}

#[test]
fn rows_behind_the_measured_ones_stay_whole() {
    let narrow = batch(vec![("t", Arc::new(StringArray::from(vec!["x"; 1500])))]);
    let wide = batch(vec![("t", Arc::new(StringArray::from(vec!["wider than all before"])))]);
    let text = print(OutputForm::Table, None, &[narrow, wide]);
    assert!(text.contains("\n wider than all before\n(1,501 rows)\n"));
    assert_eq!(text.lines().count(), 2 + 1501 + 1);
}

#[test]
fn wide_characters_count_as_two_columns() {
    let text = print(
        OutputForm::Table,
        None,
        &[batch(vec![
            ("n", Arc::new(StringArray::from(vec!["日本", "abcd"]))),
            ("b", Arc::new(StringArray::from(vec!["1", "2"]))),
        ])],
    );
    assert!(text.contains(" 日本 | 1\n abcd | 2\n"), "{text}");
}

#[test]
fn no_value_can_command_the_terminal_or_break_the_line() {
    let text = print(OutputForm::Table, None, &[batch(vec![("t", Arc::new(StringArray::from(vec!["\u{1b}[2J\na"])))])]);
    assert!(text.contains("\\u{1b}[2J\\na"), "{text}");
}

/// Fails after so many bytes, as a closed pipe or a full disk does.
struct Limited(usize, io::ErrorKind);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(self.1.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_leaves_ends_the_printing_quietly() {
    let out = Limited(10, io::ErrorKind::BrokenPipe);
    let mut printer = Printer::new(out, OutputForm::Csv, orders().schema(), None).unwrap();
    assert_eq!(printer.write(&orders()).unwrap(), ControlFlow::Break(()));
    assert_eq!(printer.write(&orders()).unwrap(), ControlFlow::Break(()));
    printer.finish().unwrap();
}

#[test]
fn a_full_disk_is_an_error() {
    let out = Limited(10, io::ErrorKind::StorageFull);
    let mut printer = Printer::new(out, OutputForm::Json, orders().schema(), None).unwrap();
    assert!(printer.write(&orders()).unwrap_err().cause().contains("cannot write the output"));
}

#[tokio::test]
async fn a_stream_is_not_asked_for_more_than_is_read() {
    let asked = std::cell::Cell::new(0);
    let batches = stream::iter(0..100).map(|_| {
        asked.set(asked.get() + 1);
        Ok(orders())
    });
    let printer =
        Printer::new(Limited(1, io::ErrorKind::BrokenPipe), OutputForm::Csv, orders().schema(), None).unwrap();
    print_stream(printer, batches).await.unwrap();
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn a_stream_that_fails_shows_the_rows_before_and_no_footer() {
    let mut out = Vec::new();
    let batches = stream::iter([Ok(orders()), Err(Failure::failed("torn"))]);
    let printer = Printer::new(&mut out, OutputForm::Table, orders().schema(), None).unwrap();
    assert_eq!(print_stream(printer, batches).await.unwrap_err().cause(), "torn");
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("300") && !text.contains("rows)"), "{text}");
}

#[test]
fn documents_are_indented() {
    let mut out = Vec::new();
    print_document(&mut out, &serde_json::json!({"lag": 1})).unwrap();
    assert_eq!(out, b"{\n  \"lag\": 1\n}\n");
}
