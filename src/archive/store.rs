//! An archive's root as an object store, and what its errors mean.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use delta_kernel::KernelError;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use futures::TryStreamExt as _;
use futures::stream::{self, StreamExt as _};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig};
use url::Url;

use super::durable_local::DurableLocal;
use super::executor::{self, Executor};
use crate::failure::{Category, Failure, Result};
use crate::machine;

/// How long one request is retried before its failure is reported to the caller, who may try again.
const RETRY_FOR: Duration = Duration::from_secs(20);

/// Where a cloud's machines get the credentials of their role.
const METADATA_SERVICE: &str = "169.254.169.254";

/// An archive's root. Paths are relative to it; cloning is cheap.
#[derive(Clone)]
pub struct Store {
    /// As the user wrote it, for messages.
    shown: Arc<str>,
    /// The root for Delta and DataFusion: the paths below it are the object store's paths.
    root: Url,
    objects: Arc<dyn ObjectStore>,
    engine: Arc<DefaultEngine<Executor>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.shown)
    }
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Store {
    /// Opens `file:///directory`, a plain path, or `s3://bucket/prefix` (credentials, endpoint and region
    /// from the usual `AWS_*` variables). Nothing is read or written yet, except that a local directory is created.
    ///
    /// Must be called inside a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// Usage for a URL of another kind; failed where a local directory cannot be created.
    pub fn open(url: &str) -> Result<Store> {
        let (root, objects) = match Location::parse(url)? {
            Location::Local(directory) => local(&directory)?,
            Location::S3 { .. } => s3(url)?,
        };
        Ok(Store::new(url, root, objects))
    }

    /// As [`Store::open`], for who only reads: a local directory that does not exist is not created.
    ///
    /// # Errors
    /// Failed where there is no such directory.
    pub fn open_existing(url: &str) -> Result<Store> {
        match Location::parse(url)? {
            Location::Local(directory) if !directory.is_dir() => Err(no_archive(url)),
            _ => Store::open(url),
        }
    }

    /// A store over any object store, for tests.
    pub fn new(shown: &str, root: Url, objects: Arc<dyn ObjectStore>) -> Store {
        let executor = Arc::new(executor::of_this_runtime());
        let engine = DefaultEngineBuilder::new(Arc::clone(&objects)).with_task_executor(executor).build();
        Store { shown: shown.into(), root, objects, engine: Arc::new(engine) }
    }

    /// Where it lies, for other programs.
    ///
    /// # Errors
    /// Failed where a relative path cannot be made absolute.
    pub fn location(&self) -> Result<Location> {
        match Location::parse(&self.shown)? {
            Location::Local(directory) => std::path::absolute(&directory)
                .map(Location::Local)
                .map_err(|error| Failure::failed(format!("archive {self}: {error}"))),
            other => Ok(other),
        }
    }

    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// The URL that, with a relative path appended, names an object for Delta and DataFusion.
    pub fn root(&self) -> &Url {
        &self.root
    }

    pub(super) fn engine(&self) -> &DefaultEngine<Executor> {
        &self.engine
    }

    pub(super) fn url_of(&self, relative: &str) -> Result<Url> {
        let mut url = self.root.clone();
        {
            let mut segments =
                url.path_segments_mut().map_err(|()| Failure::failed(format!("{} cannot be a base", self.root)))?;
            segments.pop_if_empty().extend(relative.split('/'));
        }
        Ok(url)
    }

    /// Reads a small object; `None` where it does not exist.
    pub(super) async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.objects.get(&object_path(path)?).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(|error| self.failure(error))?.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Writes an object that must not exist yet; false where it does.
    pub(super) async fn create(&self, path: &str, bytes: Vec<u8>) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&object_path(path)?, PutPayload::from(bytes), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Writes an object under a name that nobody else uses.
    pub(super) async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.objects.put(&object_path(path)?, PutPayload::from(bytes)).await.map_err(|error| self.failure(error))?;
        Ok(())
    }

    /// What lies below a directory, by name.
    pub(super) async fn list(&self, directory: &str) -> Result<Vec<ObjectMeta>> {
        let listed = self.objects.list(Some(&object_path(directory)?));
        listed.try_collect().await.map_err(|error| self.failure(error))
    }

    /// Deletes objects; those that are gone already are no failure.
    pub(super) async fn delete(&self, paths: Vec<Path>) -> Result<()> {
        let paths = stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut deleted = self.objects.delete_stream(paths);
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
        Ok(())
    }

    /// What an object store's error means to the operator.
    pub fn failure(&self, error: object_store::Error) -> Failure {
        self.request_failure(&error)
    }

    fn request_failure(&self, error: &object_store::Error) -> Failure {
        use object_store::Error;
        let text = one_line(error);
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Failure::failed(format!("archive {self}: access denied: {text}"))
                    .remedy("check the credentials and that they may read, list and write under the archive's root")
            }
            Error::NotFound { .. } => {
                Failure::failed(format!("archive {self}: an object that should exist does not: {text}"))
                    .remedy("check the bucket's name; if it is right, something deleted a part of the archive")
            }
            Error::Generic { .. } if text.contains("os error 28") => {
                Failure::transient(format!("archive {self}: no space left: {text}"))
                    .remedy("free space; the source keeps its log until the archive has it")
            }
            Error::Generic { .. } if text.contains("os error 30") => {
                Failure::failed(format!("archive {self}: read-only: {text}")).remedy("mount it writable")
            }
            // Where no credentials are given, the library asks the cloud's machines for some.
            _ if text.contains(METADATA_SERVICE) => {
                Failure::failed(format!("archive {self}: no credentials were found: {text}"))
                    .remedy("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the machine has a role")
            }
            _ => Failure::transient(format!("archive {self}: {text}"))
                .remedy("check that the store is reachable and its endpoint, region and bucket are right"),
        }
    }

    /// What an error of the Delta library means to the operator.
    pub(super) fn kernel_failure(&self, error: KernelError) -> Failure {
        match error {
            KernelError::ObjectStore(error) => self.failure(error),
            KernelError::Backtraced { source, .. } => self.kernel_failure(*source),
            // A request that failed while a file was being read is wrapped up in what the reader says.
            other => match request_behind(&other) {
                Some(error) => self.request_failure(error),
                None => Failure::failed(format!("archive {self}: {}", first_line(&other.to_string()))),
            },
        }
    }
}

/// The object store's error that caused another.
fn request_behind(error: &KernelError) -> Option<&object_store::Error> {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref()).next()
}

/// What an archive's URL says, before anything is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Local(PathBuf),
    S3 {
        bucket: String,
        /// Without slashes around it; empty for a whole bucket.
        prefix: String,
    },
}

impl Location {
    /// # Errors
    /// Usage for a URL of another kind.
    fn parse(url: &str) -> Result<Location> {
        match url.split_once("://") {
            None => Ok(Location::Local(url.into())),
            Some(("file", _)) => {
                let path = Url::parse(url).ok().and_then(|parsed| parsed.to_file_path().ok());
                let path = path.ok_or_else(|| wrong_url(url, "a file URL has three slashes and an absolute path"))?;
                Ok(Location::Local(path))
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
            }
            Some((scheme, _)) => Err(wrong_url(url, &format!("{scheme:?} is not a known kind of store"))),
        }
    }
}

pub(super) fn no_archive(shown: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("there is no archive at {shown}"))
        .remedy("make one: afterimage init, or name its root with --archive")
}

/// A path inside the archive; names in it are escaped already.
pub(super) fn object_path(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|error| Failure::failed(format!("not a path of an archive: {error}")))
}

fn local(directory: &std::path::Path) -> Result<(Url, Arc<dyn ObjectStore>)> {
    let absolute = std::path::absolute(directory)
        .map_err(|error| Failure::usage(format!("archive {}: {error}", directory.display())))?;
    let objects = DurableLocal::new(&absolute).map_err(|error| {
        Failure::failed(format!("archive {}: {}", absolute.display(), one_line(&error)))
            .remedy("name a directory that this user may create and write")
    })?;
    // Not file:///, which the Delta library would look up in the file system by itself.
    Ok((fixed_url("local:///")?, Arc::new(objects)))
}

fn s3(url: &str) -> Result<(Url, Arc<dyn ObjectStore>)> {
    let parsed = Url::parse(url).map_err(|error| wrong_url(url, &error.to_string()))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        // It would be shown wherever the archive is named.
        return Err(Failure::usage("the archive's URL holds credentials")
            .remedy("put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and write s3://bucket/prefix"));
    }
    let bucket =
        parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong_url(url, "it names no bucket"))?;
    let plain_http = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("http://")));
    let retry = RetryConfig { retry_timeout: RETRY_FOR, max_retries: 8, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry);
    if plain_http {
        builder = builder.with_allow_http(true);
    }
    let built = builder.build().map_err(|error| wrong_url(url, &one_line(&error)))?;
    let prefix = parsed.path().trim_matches('/');
    let objects: Arc<dyn ObjectStore> = if prefix.is_empty() {
        Arc::new(built)
    } else {
        Arc::new(PrefixStore::new(
            built,
            Path::from_url_path(prefix).map_err(|error| wrong_url(url, &error.to_string()))?,
        ))
    };
    Ok((fixed_url(&format!("s3://{bucket}/"))?, objects))
}

fn fixed_url(text: &str) -> Result<Url> {
    Url::parse(text).map_err(|error| wrong_url(text, &error.to_string()))
}

fn wrong_url(url: &str, why: &str) -> Failure {
    Failure::usage(format!("archive {url:?}: {why}")).remedy("write file:///directory or s3://bucket/prefix")
}

/// The whole chain of an error's causes on one line, without repeating what is said already.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = first_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = first_line(&cause.to_string());
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Runs work that blocks, or that takes its time, where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match machine::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(Category::Failed, format!("a worker stopped: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    /// The Delta library reads checkpoints with a Parquet reader, which wraps the store's errors.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_that_failed_inside_of_the_delta_library_can_be_tried_again() {
        let store = Store::new("memory", Url::parse("memory:///").unwrap(), Arc::new(InMemory::new()));
        let error = object_store::Error::Generic { store: "S3", source: "connection reset by peer".into() };
        let wrapped = parquet::errors::ParquetError::External(Box::new(error));
        assert!(store.kernel_failure(wrapped.into()).is_transient());
        let damaged = parquet::errors::ParquetError::General("not a Parquet file".into());
        assert!(!store.kernel_failure(damaged.into()).is_transient());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn missing_credentials_are_called_that() {
        let store = Store::new("s3://bucket/x", Url::parse("s3://bucket/").unwrap(), Arc::new(InMemory::new()));
        let asked = "Error performing PUT http://169.254.169.254/latest/api/token: operation timed out";
        let failure = store.failure(object_store::Error::Generic { store: "S3", source: asked.into() });
        assert!(failure.cause().contains("no credentials were found"), "{failure}");
        assert!(failure.remedy_text().unwrap().contains("AWS_ACCESS_KEY_ID"));
        assert!(!failure.is_transient(), "waiting brings none");
    }
}
