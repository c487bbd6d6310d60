//! `afterimage sql`.

use std::io::stdout;

use clap::{Args, ValueEnum};

use super::context::{Context, parse_pattern, parse_point, single_table};
use super::output::print_text;
use super::progress::say;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::foreign::{self, Engine};
use crate::history::{Cut, TableAt};
use crate::model::{Point, TablePattern};

#[derive(Debug, Clone, Args)]
pub(super) struct SqlArgs {
    /// The table: orders, sales.orders, "Quoted"."Name"
    #[arg(value_parser = parse_pattern)]
    table: TablePattern,
    /// The engine that is to run it
    #[arg(long = "for", value_enum, value_name = "ENGINE")]
    engine: EngineName,
    /// The rows as they were here; where the archive is, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point, conflicts_with = "changes")]
    at: Option<Point>,
    /// Give the changes, in order, in place of a state
    #[arg(long)]
    changes: bool,
    /// With --changes: changes after this point; from the archive's beginning, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point, requires = "changes")]
    from: Option<Point>,
    /// With --changes: changes up to this point; up to where the archive is, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point, requires = "changes")]
    to: Option<Point>,
    /// Also a column NAME~exact with PostgreSQL's text of values that a column cannot hold: infinity, NaN
    #[arg(long)]
    exact: bool,
}

/// Its names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineName {
    Duckdb,
    Clickhouse,
    Spark,
    Trino,
    #[value(alias = "ballista")]
    Datafusion,
}

impl EngineName {
    fn engine(self) -> Engine {
        match self {
            EngineName::Duckdb => Engine::DuckDb,
            EngineName::Clickhouse => Engine::ClickHouse,
            EngineName::Spark => Engine::Spark,
            EngineName::Trino => Engine::Trino,
            EngineName::Datafusion => Engine::DataFusion,
        }
    }
}

pub(super) async fn run(context: &Context, args: SqlArgs) -> Result<()> {
    let archive = context.archive().await?;
    let engine = args.engine.engine();
    let until = resolved(context, &archive, args.at.as_ref().or(args.to.as_ref())).await?;
    let name = single_table(&args.table, archive.tables_ever().await?.keys())?;
    let gone = || Failure::refused(format!("{name} did not exist at {}", until.point));
    let table = TableAt::at(&archive, &name, &until).await?.ok_or_else(gone)?;
    for column in &table.relation().left_out {
        say(&format!("warning: {name}.{column} is a generated column: the source does not publish it, it is left out"));
    }
    let location = archive.store().location()?;
    let (sql, what) = match args.changes {
        true => {
            let start = Point::Lsn(archive.identity().start_lsn);
            let from = context.resolve(&archive, args.from.as_ref().unwrap_or(&start)).await?;
            let parts = table.changes_since(&from).await?;
            let sql = foreign::changes(engine, location, table.relation(), &parts, args.exact)?;
            (sql, format!("changes of {name} from LSN {} to LSN {}", from.lsn, until.lsn))
        }
        false => {
            let sql = foreign::state(engine, location, &table.parts().await?, args.exact)?;
            (sql, format!("{name} at LSN {}", until.lsn))
        }
    };
    print_text(stdout(), &format!("-- {what}, for {engine}\n{sql}"))
}

async fn resolved(context: &Context, archive: &Archive, point: Option<&Point>) -> Result<Cut> {
    match point {
        Some(point) => context.resolve(archive, point).await,
        None => context.resolve(archive, &Point::Lsn(archive.watermark().await?.lsn)).await,
    }
}
