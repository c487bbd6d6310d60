//! Ballista's scheduler, its executor and a client of theirs, as its own programs wire them: objects in S3, and the way
//! to them in the usual variables.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ballista::prelude::SessionContextExt as _;
use ballista_core::extension::ballista_scalar_functions;
use ballista_core::object_store::{
    runtime_env_with_s3_support, session_config_with_s3_support, session_state_with_s3_support, state_with_s3_support,
};
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::start_server;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::prelude::SessionContext;
use tracing_subscriber::EnvFilter;

const USAGE: &str = "ballista-cluster scheduler PORT EXECUTORS
ballista-cluster executor SCHEDULER_PORT PORT TASKS_PORT DIRECTORY
ballista-cluster query SCHEDULER_PORT FILE    SQL from standard input, the rows of its last statement to an Arrow file";

/// Which tasks an executor ran, and what each read.
const LOG: &str = "warn,ballista_executor=info,ballista_executor::metrics=debug";

/// Plans are trees, and what walks them recurses.
const STACK: usize = 32 << 20;

/// Where it plans anew while a statement runs, Ballista 55 leaves some statements without an answer.
const SETTINGS: [&str; 2] =
    ["SET ballista.planner.adaptive.enabled = false", "SET datafusion.execution.target_partitions = 2"];

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let filter = EnvFilter::new(LOG);
    tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).with_env_filter(filter).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build()?;
    // Spawned, since the first thread's stack is not ours to choose.
    runtime.block_on(async { tokio::spawn(run()).await })?
}

async fn run() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["scheduler", port, executors] => scheduler(port.parse()?, executors.parse()?).await,
        ["executor", scheduler, port, tasks, directory] => {
            executor(scheduler.parse()?, port.parse()?, tasks.parse()?, directory.to_owned()).await
        }
        ["query", scheduler, file] => query(scheduler, file).await,
        _ => Err(USAGE.into()),
    }
}

/// Is ready when it has so many executors, and gives each of them its share of the tasks.
async fn scheduler(port: u16, executors: usize) -> Outcome {
    let config = SchedulerConfig {
        bind_port: port,
        min_ready_executors: executors,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        override_config_producer: Some(Arc::new(session_config_with_s3_support)),
        override_session_builder: Some(Arc::new(session_state_with_s3_support)),
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    Ok(start_server(cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Arc::new(config)).await?)
}

/// Knows the functions of lists and maps too, which clients and the scheduler of Ballista 55 know and its executor does not.
async fn executor(scheduler: u16, port: u16, tasks: u16, directory: String) -> Outcome {
    let mut functions = BallistaFunctionRegistry::default();
    functions.scalar_functions =
        ballista_scalar_functions().into_iter().map(|one| (one.name().to_owned(), one)).collect();
    let config = ExecutorProcessConfig {
        port,
        grpc_port: tasks,
        scheduler_host: "127.0.0.1".to_owned(),
        scheduler_port: scheduler,
        scheduler_connect_timeout_seconds: 60,
        vcores: 1,
        work_dir: Some(directory),
        override_function_registry: Some(Arc::new(functions)),
        override_config_producer: Some(Arc::new(session_config_with_s3_support)),
        override_runtime_producer: Some(Arc::new(runtime_env_with_s3_support)),
        ..ExecutorProcessConfig::default()
    };
    Ok(start_executor_process(Arc::new(config)).await?)
}

async fn query(scheduler: &str, file: &str) -> Outcome {
    let url = format!("df://127.0.0.1:{scheduler}");
    let context = SessionContext::remote_with_state(&url, state_with_s3_support()?).await?;
    for setting in SETTINGS {
        context.sql(setting).await?;
    }
    let mut sql = String::new();
    io::stdin().read_to_string(&mut sql)?;
    let statements: Vec<&str> = sql.split(";\n").filter(|statement| !statement.trim().is_empty()).collect();
    let (question, setup) = statements.split_last().ok_or("there is no SQL")?;
    for statement in setup {
        context.sql(statement).await?;
    }
    let rows = context.sql(question).await?;
    let schema = Arc::clone(rows.schema().inner());
    let batches = rows.collect().await?;
    let mut writer = FileWriter::try_new(File::create(file)?, &schema)?;
    for batch in &batches {
        writer.write(batch)?;
    }
    Ok(writer.finish()?)
}
