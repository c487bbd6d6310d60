//! Files of columns for other programs: Parquet and Arrow's IPC.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::unprintable;
use crate::failure::{Failure, Result};

/// A row group of Parquet is in memory until it is whole; it ends at about so many bytes.
const ROW_GROUP_BYTES: usize = 64 << 20;

pub(super) struct ParquetForm {
    schema: SchemaRef,
    /// `None` once it is finished.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl ParquetForm {
    pub(super) fn new(schema: SchemaRef) -> Result<ParquetForm> {
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(no_parquet)?;
        Ok(ParquetForm { schema, writer: Some(writer) })
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let Some(writer) = &mut self.writer else { return Ok(Vec::new()) };
        writer.write(&of_schema(&self.schema, batch)?).map_err(no_parquet)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush().map_err(no_parquet)?;
        }
        Ok(std::mem::take(writer.inner_mut()))
    }

    pub(super) fn finish(&mut self) -> Result<Vec<u8>> {
        self.writer.take().map_or(Ok(Vec::new()), |writer| writer.into_inner().map_err(no_parquet))
    }
}

fn no_parquet(error: parquet::errors::ParquetError) -> Failure {
    unprintable(ArrowError::from(error))
}

pub(super) struct ArrowForm {
    schema: SchemaRef,
    /// `None` once it is finished.
    writer: Option<FileWriter<Vec<u8>>>,
}

impl ArrowForm {
    pub(super) fn new(schema: SchemaRef) -> Result<ArrowForm> {
        let writer = FileWriter::try_new(Vec::new(), &schema).map_err(unprintable)?;
        Ok(ArrowForm { schema, writer: Some(writer) })
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let Some(writer) = &mut self.writer else { return Ok(Vec::new()) };
        writer.write(&of_schema(&self.schema, batch)?).map_err(unprintable)?;
        Ok(std::mem::take(writer.get_mut()))
    }

    pub(super) fn finish(&mut self) -> Result<Vec<u8>> {
        self.writer.take().map_or(Ok(Vec::new()), |writer| writer.into_inner().map_err(unprintable))
    }
}

/// A stream's batches may say of a column that it has no NULL where the stream itself does not.
fn of_schema(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options).map_err(unprintable)
}

impl fmt::Debug for ParquetForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetForm").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl fmt::Debug for ArrowForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowForm").field("schema", &self.schema).finish_non_exhaustive()
    }
}
