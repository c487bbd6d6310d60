//! A table that is read from exactly the files it was given.
//!
//! The Parquet reader below knows the files' own names and wants partition columns last; the table
//! above shows the source's names in the source's order. In between, always, stands the filter that
//! hides what lies above the watermark:
//!
//! ```text
//!   projection (shown names)      only where a stored name differs
//!     filter _lsn <= watermark    only where the table has a watermark
//!       Parquet scan              stored names; the filters above skip files, row groups and pages
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::{Guarantee, LiteralGuarantee};
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::scalar::ScalarValue;
use object_store::ObjectMeta;

use super::reader::Readers;
use super::{DataFile, TableFiles};
use crate::archive::{KeyBounds, Values};
use crate::columnar::Bound;
use crate::failure::Failure;

/// A table of the archive as DataFusion scans it: no listing, no statistics that could answer for
/// rows nobody may see, and never a row above the watermark.
#[derive(Debug)]
pub struct ArchivedTable {
    /// What a query sees.
    shown: SchemaRef,
    /// The same columns as the scan has them: stored names, partition columns last.
    scanned: TableSchema,
    /// For each shown column its place among the scanned ones.
    places: Vec<usize>,
    files: Vec<PartitionedFile>,
    /// Whether the same is known of every file.
    alike: bool,
    visible: Option<Visible>,
    store: ObjectStoreUrl,
}

/// The watermark, or a narrower range, and where the scan has the column that it limits.
#[derive(Debug, Clone, Copy)]
struct Visible {
    from: Option<i64>,
    through: i64,
    place: usize,
}

impl ArchivedTable {
    /// A table over `files`, which lie in the object store registered under `store`.
    ///
    /// # Errors
    /// Where a watermark is given but there is no 64-bit LSN column to compare it with, or where a
    /// partition value does not have its column's type.
    pub fn new(files: TableFiles, store: ObjectStoreUrl) -> Result<ArchivedTable> {
        let shown = Arc::new(nullable(&files.schema));
        let (scanned, places) = scanned_schema(&shown, &files);
        let visible = files.visible_through.map(|through| visible(&shown, &places, &files, through)).transpose()?;
        let lsn_column = scanned.file_schema().index_of(stored_name(&files, &files.lsn_column)).ok();
        let listed = files
            .files
            .iter()
            .map(|file| partitioned_file(file, &files, &scanned, lsn_column))
            .collect::<Result<Vec<_>>>()?;
        let known = |file: &DataFile| {
            let numbers: Vec<String> = file.numbers.iter().map(|(column, ..)| column.clone()).collect();
            (file.lsn_range.is_some(), numbers)
        };
        let mut all = files.files.iter().map(known);
        let first = all.next();
        let alike =
            all.all(|other| Some(&other) == first.as_ref()) && listed.iter().all(|file| file.statistics.is_some());
        Ok(ArchivedTable { shown, scanned, places, files: listed, alike, visible, store })
    }

    /// The query's filters and the watermark in terms of the scan, for leaving out files.
    fn predicate(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let schema = DFSchema::try_from(Arc::clone(&self.shown))?;
        let of_query = filters
            .iter()
            .map(|filter| self.to_scanned(state.create_physical_expr(filter.clone(), &schema)?))
            .collect::<Result<Vec<_>>>()?;
        let of_watermark = self.visible.map(|visible| visible.condition(self.scanned_column(visible.place)));
        Ok(conjunction_opt(of_query.into_iter().chain(of_watermark)))
    }

    /// The files that their constants and the ranges of their numbers do not exclude.
    fn files_that_may_match(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<PartitionedFile> {
        let builder = || PruningPredicateBuilder::new().with_file_schema(Arc::clone(self.scanned.table_schema()));
        // Leaving files out is an economy: where it cannot be decided, they are read.
        let Some(pruning) = predicate.and_then(|all| builder().try_build(Arc::clone(all)).ok()) else {
            return self.files.clone();
        };
        // What is known of one file and not of another, Arrow cannot put into one column.
        let together = if self.alike { self.files.len().max(1) } else { 1 };
        self.files.chunks(together).flat_map(|files| self.prune(&pruning, files)).cloned().collect()
    }

    fn prune<'a>(&self, pruning: &PruningPredicate, files: &'a [PartitionedFile]) -> Vec<&'a PartitionedFile> {
        let schema = self.scanned.table_schema();
        let unknown = || Arc::new(Statistics::new_unknown(schema));
        let known = files.iter().map(|file| file.statistics.clone().unwrap_or_else(unknown)).collect();
        match pruning.prune(&PrunableStatistics::new(known, Arc::clone(schema))) {
            Ok(kept) => files.iter().zip(kept).filter_map(|(file, kept)| kept.then_some(file)).collect(),
            Err(_) => files.iter().collect(),
        }
    }

    /// Moves an expression from the shown columns to the scanned ones.
    fn to_scanned(&self, expression: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let moved = expression.transform_up(|node| {
            let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
            let place = self.places.get(column.index()).copied().ok_or_else(|| outside(column))?;
            Ok(Transformed::yes(self.scanned_column(place)))
        })?;
        Ok(moved.data)
    }

    fn scanned_column(&self, place: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(self.scanned.table_schema().field(place).name(), place))
    }

    /// The Parquet scan of the columns at `places`. The optimizer hands it the filters that stand above
    /// it, so that it skips row groups and pages.
    fn scan_files(
        &self,
        state: &dyn Session,
        files: Vec<PartitionedFile>,
        places: Vec<usize>,
        limit: Option<usize>,
        sought: &[LiteralGuarantee],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let runtime = state.runtime_env();
        let bounds = sought.iter().filter_map(bounds_of).collect();
        let readers = Readers::new(runtime.object_store(&self.store)?, Arc::clone(runtime), bounds);
        let options =
            TableParquetOptions { global: state.config_options().execution.parquet.clone(), ..Default::default() };
        let source = ParquetSource::new(self.scanned.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(readers));
        let cores = state.config().target_partitions().max(1);
        // Parts of one file would each read its footer, to find that the rows are in another.
        let cores = if sought.is_empty() { cores } else { cores.min(files.len()) };
        let groups = FileGroup::new(files).split_files(cores);
        let scan = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(Some(places))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

#[async_trait]
impl TableProvider for ArchivedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shown)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters only leave out what cannot match; the query keeps its own filter for the rest.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.places.len()).collect());
        let shown = Arc::new(self.shown.project(&columns)?);
        let predicate = self.predicate(state, filters)?;
        let files = self.files_that_may_match(predicate.as_ref());
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(shown)));
        }
        let mut places: Vec<usize> = columns.iter().map(|column| self.places[*column]).collect();
        let sought = predicate.as_ref().map(sought_values).unwrap_or_default();
        // A filtered scan must not stop early: the rows it counts may not be the ones that match.
        let limit = limit.filter(|_| filters.is_empty());
        // Where every row of the files is visible, as it mostly is, none need be asked.
        let visible = self.visible.filter(|visible| !files.iter().all(|file| visible.shows_all_of(file)));
        let plan = match visible {
            None => self.scan_files(state, files, places, limit, &sought)?,
            Some(visible) => {
                let wanted = places.len();
                let lsn_at = position_or_push(&mut places, visible.place);
                let scan = self.scan_files(state, files, places, None, &sought)?;
                hide(scan, lsn_at, visible, wanted, limit)?
            }
        };
        under_shown_names(plan, &shown)
    }
}

/// The columns that must have one of some values, which mostly few rows have.
fn sought_values(predicate: &Arc<dyn PhysicalExpr>) -> Vec<LiteralGuarantee> {
    let mut known = LiteralGuarantee::analyze(predicate);
    known.retain(|known| known.guarantee == Guarantee::In);
    known
}

/// The same as statistics compare it, where all of the values have such a form.
fn bounds_of(sought: &LiteralGuarantee) -> Option<KeyBounds> {
    let values = sought.literals.iter().map(bound_of).collect::<Option<Vec<_>>>()?;
    Some(KeyBounds::new(sought.column.name(), Values::among(values)))
}

fn bound_of(value: &ScalarValue) -> Option<Bound> {
    Some(match value {
        ScalarValue::Int16(Some(number)) => Bound::Number(i64::from(*number)),
        ScalarValue::Int32(Some(number)) | ScalarValue::Date32(Some(number)) => Bound::Number(i64::from(*number)),
        ScalarValue::Int64(Some(number)) | ScalarValue::TimestampMicrosecond(Some(number), _) => Bound::Number(*number),
        ScalarValue::Utf8(Some(text)) => Bound::Bytes(text.as_bytes().into()),
        _ => return None,
    })
}

/// Hides the rows above the watermark, and the columns that only this comparison needed.
fn hide(
    scan: Arc<dyn ExecutionPlan>,
    lsn_at: usize,
    visible: Visible,
    wanted: usize,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let name = scan.schema().field(lsn_at).name().clone();
    let filter = FilterExecBuilder::new(visible.condition(Arc::new(Column::new(&name, lsn_at))), scan)
        // Nearly every row is visible; the default guess of one in five would mislead join planning.
        .with_default_selectivity(100)
        .apply_projection(Some((0..wanted).collect()))?
        .with_fetch(limit)
        .build()?;
    Ok(Arc::new(filter))
}

fn under_shown_names(plan: Arc<dyn ExecutionPlan>, shown: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    let scanned = plan.schema();
    let pairs = || scanned.fields().iter().zip(shown.fields());
    if pairs().all(|(scanned, shown)| scanned.name() == shown.name()) {
        return Ok(plan);
    }
    let renamed = pairs().enumerate().map(|(at, (scanned, shown))| {
        (Arc::new(Column::new(scanned.name(), at)) as Arc<dyn PhysicalExpr>, shown.name().clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(renamed.collect::<Vec<_>>(), plan)?))
}

impl Visible {
    /// Whether a file has only such rows.
    fn shows_all_of(self, file: &PartitionedFile) -> bool {
        let known = file.statistics.as_ref().and_then(|known| known.column_statistics.get(self.place));
        let bounds = known.map(|known| (known.min_value.get_value(), known.max_value.get_value()));
        match bounds {
            Some((Some(ScalarValue::Int64(Some(least))), Some(ScalarValue::Int64(Some(greatest))))) => {
                self.from.is_none_or(|from| from <= *least) && *greatest <= self.through
            }
            _ => false,
        }
    }

    /// What the column must be.
    fn condition(self, column: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        let compared = |operator, bound| -> Arc<dyn PhysicalExpr> {
            let bound = Arc::new(Literal::new(ScalarValue::Int64(Some(bound))));
            Arc::new(BinaryExpr::new(Arc::clone(&column), operator, bound))
        };
        let through = compared(Operator::LtEq, self.through);
        match self.from {
            Some(from) => Arc::new(BinaryExpr::new(compared(Operator::GtEq, from), Operator::And, through)),
            None => through,
        }
    }
}

fn position_or_push(places: &mut Vec<usize>, place: usize) -> usize {
    places.iter().position(|present| *present == place).unwrap_or_else(|| {
        places.push(place);
        places.len() - 1
    })
}

/// An older file may lack any column, so every column may be NULL.
fn nullable(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

fn stored_name<'a>(files: &'a TableFiles, shown: &'a str) -> &'a str {
    files.stored_names.get(shown).map_or(shown, String::as_str)
}

/// The schema of the scan, and for each shown column its place in it.
fn scanned_schema(shown: &Schema, files: &TableFiles) -> (TableSchema, Vec<usize>) {
    let constant: HashSet<&str> =
        files.files.iter().flat_map(|file| file.partition_values.iter().map(|(name, _)| name.as_str())).collect();
    let is_constant = |at: usize| constant.contains(shown.field(at).name().as_str());
    let (last, first): (Vec<usize>, Vec<usize>) = (0..shown.fields().len()).partition(|at| is_constant(*at));
    let stored = |columns: &[usize]| -> Vec<FieldRef> {
        columns.iter().map(|at| Arc::new(stored_field(shown.field(*at), files))).collect()
    };
    let scanned =
        TableSchema::builder(Arc::new(Schema::new(stored(&first)))).with_table_partition_cols(stored(&last)).build();
    let mut places = vec![0; shown.fields().len()];
    first.iter().chain(&last).enumerate().for_each(|(place, column)| places[*column] = place);
    (scanned, places)
}

fn stored_field(shown: &Field, files: &TableFiles) -> Field {
    shown.clone().with_name(stored_name(files, shown.name()))
}

fn visible(shown: &Schema, places: &[usize], files: &TableFiles, through: i64) -> Result<Visible> {
    let lsn_column = &files.lsn_column;
    match shown.column_with_name(lsn_column) {
        Some((at, field)) if field.data_type() == &DataType::Int64 => {
            Ok(Visible { from: files.visible_from, through, place: places[at] })
        }
        // Showing all rows would show transactions that are not committed in the archive.
        _ => Err(broken(format!("the table has a watermark but no 64-bit {lsn_column} column"))),
    }
}

fn partitioned_file(
    file: &DataFile,
    files: &TableFiles,
    scanned: &TableSchema,
    lsn_column: Option<usize>,
) -> Result<PartitionedFile> {
    let values: Vec<ScalarValue> =
        scanned.table_partition_cols().iter().map(|column| constant_of(file, files, column)).collect::<Result<_>>()?;
    // Statistics claim that constants are never NULL, so a file with a NULL one goes without.
    let describable = values.iter().all(|value| !value.is_null());
    let listed = PartitionedFile::new_from_meta(object_meta(file)).with_partition_values(values);
    Ok(if describable { listed.with_statistics(Arc::new(statistics(file, scanned, lsn_column))) } else { listed })
}

/// The file's value of a partition column, in the column's type; NULL where the file has none.
fn constant_of(file: &DataFile, files: &TableFiles, column: &Field) -> Result<ScalarValue> {
    let given = file.partition_values.iter().find(|(name, _)| stored_name(files, name) == column.name());
    match given {
        Some((_, value)) => value.cast_to(column.data_type()),
        None => ScalarValue::try_from(column.data_type()),
    }
}

/// Files never change under their name, so the time of change, part of the footer cache's key, is constant.
fn object_meta(file: &DataFile) -> ObjectMeta {
    ObjectMeta {
        location: file.path.clone(),
        last_modified: DateTime::<Utc>::UNIX_EPOCH,
        size: file.size,
        e_tag: None,
        version: None,
    }
}

fn statistics(file: &DataFile, scanned: &TableSchema, lsn_column: Option<usize>) -> Statistics {
    let mut statistics = Statistics::new_unknown(scanned.file_schema());
    for (name, least, greatest) in &file.numbers {
        let Some((column, field)) = scanned.file_schema().column_with_name(name) else { continue };
        let bound = |number: i64| match field.data_type() {
            DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                ScalarValue::Int64(Some(number)).cast_to(field.data_type()).ok()
            }
            _ => None,
        };
        if let (Some(least), Some(greatest)) = (bound(*least), bound(*greatest)) {
            let bounds = &mut statistics.column_statistics[column];
            (bounds.min_value, bounds.max_value) = (Precision::Exact(least), Precision::Exact(greatest));
        }
    }
    if let (Some((smallest, largest)), Some(column)) = (file.lsn_range, lsn_column) {
        let bounds = &mut statistics.column_statistics[column];
        bounds.min_value = Precision::Exact(ScalarValue::Int64(Some(smallest)));
        bounds.max_value = Precision::Exact(ScalarValue::Int64(Some(largest)));
    }
    statistics
}

fn outside(column: &Column) -> DataFusionError {
    broken(format!("column {} is not one of the table's", column.name()))
}

fn broken(cause: String) -> DataFusionError {
    DataFusionError::External(Box::new(Failure::failed(cause).remedy("run verify; this is a defect worth a report")))
}
