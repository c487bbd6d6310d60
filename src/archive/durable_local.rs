//! A local directory as an object store whose writes survive a power cut.
//!
//! `object_store`'s own local store returns before the operating system has put anything on disk, and
//! an archiver that acknowledges then has lost the change. Here an object is complete, synced and
//! reachable by a synced directory entry before `put` returns; what a reader finds under its name is
//! always whole. Reads and listings are the library's.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

const STORE: &str = "DurableLocal";

/// See the module's documentation.
#[derive(Debug)]
pub struct DurableLocal {
    inner: LocalFileSystem,
    disk: Arc<dyn Disk>,
}

impl DurableLocal {
    /// Opens the directory as a store, creating and syncing it where it does not exist.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn new(root: &FilePath) -> Result<DurableLocal> {
        DurableLocal::on(Arc::new(RealDisk), root)
    }

    fn on(disk: Arc<dyn Disk>, root: &FilePath) -> Result<DurableLocal> {
        create_synced(&*disk, root).map_err(|error| failed(root, error))?;
        Ok(DurableLocal { inner: LocalFileSystem::new_with_prefix(root)?, disk })
    }
}

/// What the operating system does to a disk. Tests have one whose power is cut.
trait Disk: fmt::Debug + Send + Sync {
    /// Makes a file and writes it.
    fn write_new(&self, path: &FilePath, payload: &PutPayload) -> io::Result<File>;
    /// Puts a file's content on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;
    fn link(&self, from: &FilePath, to: &FilePath) -> io::Result<()>;
    fn rename(&self, from: &FilePath, to: &FilePath) -> io::Result<()>;
    fn remove(&self, path: &FilePath) -> io::Result<()>;
    fn create_directory(&self, path: &FilePath) -> io::Result<()>;
    /// Puts a directory's entries on the disk.
    fn sync_directory(&self, directory: &FilePath) -> io::Result<()>;
}

#[derive(Debug)]
struct RealDisk;

impl Disk for RealDisk {
    fn write_new(&self, path: &FilePath, payload: &PutPayload) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        payload.iter().try_for_each(|part| file.write_all(part))?;
        Ok(file)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn link(&self, from: &FilePath, to: &FilePath) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &FilePath, to: &FilePath) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &FilePath) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_directory(&self, path: &FilePath) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_directory(&self, directory: &FilePath) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(not_implemented("put with an expected version")),
        };
        let (path, disk) = (self.inner.path_to_filesystem(location)?, Arc::clone(&self.disk));
        let write = move || write_synced(&*disk, &path, &payload, create).map_err(|error| failed(&path, error));
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map(|()| PutResult { e_tag: None, version: None }),
            Err(source) => Err(object_store::Error::JoinError { source }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("copy"))
    }
}

/// By name, as object stores list: the Delta log is read in that order.
fn sorted(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let whole = async move {
        let mut found: Vec<ObjectMeta> = listing.try_collect().await?;
        found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, object_store::Error>(stream::iter(found.into_iter().map(Ok)))
    };
    stream::once(whole).try_flatten().boxed()
}

fn not_implemented(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: operation.into(), implementer: STORE.into() }
}

fn failed(path: &FilePath, source: io::Error) -> object_store::Error {
    let shown = path.display().to_string();
    match source.kind() {
        ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path: shown, source: source.into() },
        ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path: shown, source: source.into() },
        _ => object_store::Error::Generic { store: STORE, source: format!("{shown}: {source}").into() },
    }
}

fn write_synced(disk: &dyn Disk, path: &FilePath, payload: &PutPayload, create: bool) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    let staging = staging_path(path);
    let written = match disk.write_new(&staging, payload) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_synced(disk, directory)?;
            disk.write_new(&staging, payload)
        }
        written => written,
    };
    let placed = written.and_then(|file| disk.sync(&file)).and_then(|()| match create {
        true => disk.link(&staging, path),
        false => disk.rename(&staging, path),
    });
    if create || placed.is_err() {
        // The link has its own name by now; a leftover only takes space, and listings hide it.
        let _ = disk.remove(&staging);
    }
    placed?;
    disk.sync_directory(directory)
}

/// A name beside the target that the library's listings leave out (`#` and digits).
fn staging_path(path: &FilePath) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}{:06}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

/// Creates a directory and syncs every directory that got a new entry on the way.
fn create_synced(disk: &dyn Disk, directory: &FilePath) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent =
        directory.parent().map(|parent| if parent.as_os_str().is_empty() { FilePath::new(".") } else { parent });
    if let Some(parent) = parent {
        create_synced(disk, parent)?;
    }
    match disk.create_directory(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
        created => created?,
    }
    parent.map_or(Ok(()), |parent| disk.sync_directory(parent))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Mutex;

    use object_store::ObjectStoreExt as _;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// A disk that keeps what was synced and nothing else for certain, and whose power fails after so many operations.
    #[derive(Debug)]
    struct FailingDisk {
        left: AtomicU64,
        volatile: Mutex<Volatile>,
    }

    /// What a power cut may take.
    #[derive(Debug, Default)]
    struct Volatile {
        /// Files, by their inode.
        contents: BTreeSet<u64>,
        /// Entries of directories, and what was there before.
        entries: Vec<(PathBuf, PathBuf, Before)>,
    }

    #[derive(Debug)]
    enum Before {
        Nothing,
        Content(Vec<u8>),
        NoDirectory,
    }

    impl FailingDisk {
        fn step(&self) -> io::Result<()> {
            let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            left.map(drop).map_err(|_| io::Error::other("the power is gone"))
        }

        fn entry(&self, path: &FilePath, before: Before) {
            let directory = path.parent().unwrap().to_owned();
            self.volatile.lock().unwrap().entries.push((directory, path.to_owned(), before));
        }

        /// What is found below a directory when the power is back.
        fn cut(&self, root: &FilePath, dice: &mut StdRng) {
            let Volatile { contents, entries } = std::mem::take(&mut *self.volatile.lock().unwrap());
            for (_, path, before) in entries.into_iter().rev() {
                // The system may have written of its own accord.
                if dice.random() {
                    continue;
                }
                let _ = match before {
                    Before::Nothing => fs::remove_file(&path),
                    Before::Content(content) => fs::write(&path, content),
                    Before::NoDirectory => fs::remove_dir_all(&path),
                };
            }
            let torn = |path: &FilePath| {
                let metadata = fs::metadata(path).unwrap();
                if contents.contains(&metadata.ino()) {
                    OpenOptions::new().write(true).open(path).unwrap().set_len(metadata.len() / 2).unwrap();
                }
            };
            files(root, &torn);
        }
    }

    impl Disk for FailingDisk {
        fn write_new(&self, path: &FilePath, payload: &PutPayload) -> io::Result<File> {
            self.step()?;
            let file = RealDisk.write_new(path, payload)?;
            self.volatile.lock().unwrap().contents.insert(file.metadata()?.ino());
            self.entry(path, Before::Nothing);
            Ok(file)
        }

        fn sync(&self, file: &File) -> io::Result<()> {
            self.step()?;
            self.volatile.lock().unwrap().contents.remove(&file.metadata()?.ino());
            Ok(())
        }

        fn link(&self, from: &FilePath, to: &FilePath) -> io::Result<()> {
            self.step()?;
            RealDisk.link(from, to)?;
            self.entry(to, Before::Nothing);
            Ok(())
        }

        fn rename(&self, from: &FilePath, to: &FilePath) -> io::Result<()> {
            self.step()?;
            let before = fs::read(to).map_or(Before::Nothing, Before::Content);
            RealDisk.rename(from, to)?;
            self.entry(to, before);
            Ok(())
        }

        fn remove(&self, path: &FilePath) -> io::Result<()> {
            self.step()?;
            RealDisk.remove(path)
        }

        fn create_directory(&self, path: &FilePath) -> io::Result<()> {
            self.step()?;
            RealDisk.create_directory(path)?;
            self.entry(path, Before::NoDirectory);
            Ok(())
        }

        fn sync_directory(&self, directory: &FilePath) -> io::Result<()> {
            self.step()?;
            self.volatile.lock().unwrap().entries.retain(|(of, ..)| of != directory);
            Ok(())
        }
    }

    fn files(directory: &FilePath, take: &dyn Fn(&FilePath)) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { files(&path, take) } else { take(&path) }
        }
    }

    /// What a put has answered for is there, and what it has not is there whole or not at all: whenever the power fails.
    #[tokio::test]
    async fn a_power_cut_takes_only_what_was_not_acknowledged() {
        for seed in 0..300 {
            let mut dice = StdRng::seed_from_u64(seed);
            let root = std::env::temp_dir().join(format!("afterimage-power-{}-{seed}", std::process::id()));
            let (mut kept, mut number): (BTreeMap<String, Vec<String>>, u64) = (BTreeMap::new(), 0);
            for _ in 0..3 {
                let left = AtomicU64::new(dice.random_range(1..60));
                let disk = Arc::new(FailingDisk { left, volatile: Mutex::default() });
                let Ok(store) = DurableLocal::on(Arc::clone(&disk) as Arc<dyn Disk>, &root.join("a/b")) else {
                    disk.cut(&root, &mut dice);
                    continue;
                };
                while disk.left.load(Ordering::SeqCst) > 0 {
                    number += 1;
                    let path = format!(
                        "d{}/e{}/{}",
                        dice.random_range(0..2),
                        dice.random_range(0..2),
                        dice.random_range(0..6)
                    );
                    let create = dice.random_ratio(1, 2);
                    let mode = if create { PutMode::Create } else { PutMode::Overwrite };
                    let content = format!("content {number}");
                    let options = PutOptions { mode, ..PutOptions::default() };
                    let put = store.put_opts(&Path::from(path.as_str()), content.clone().into(), options).await;
                    // What may be found there afterwards: that, or also what was there before.
                    let found = kept.entry(path).or_default();
                    match put {
                        Ok(_) => *found = vec![content],
                        Err(object_store::Error::AlreadyExists { .. }) => {}
                        Err(_) if create && found.iter().any(|one| !one.is_empty()) => {}
                        Err(_) if found.is_empty() => *found = vec![String::new(), content],
                        Err(_) => found.push(content),
                    }
                }
                disk.cut(&root, &mut dice);
                for (path, may_be) in &mut kept {
                    let content = fs::read_to_string(root.join("a/b").join(path)).unwrap_or_default();
                    assert!(may_be.contains(&content), "seed {seed}: {path} is {content:?}, not {may_be:?}");
                    *may_be = vec![content];
                }
                // What was found is what counts from now on.
                kept.retain(|_, may_be| *may_be != [String::new()]);
            }
            fs::remove_dir_all(root).unwrap();
        }
    }

    fn store(name: &str) -> (DurableLocal, PathBuf) {
        let root = std::env::temp_dir().join(format!("afterimage-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        (DurableLocal::new(&root.join("a/b")).unwrap(), root)
    }

    async fn create(store: &DurableLocal, path: &str, bytes: &'static [u8]) -> Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&Path::from(path), PutPayload::from_static(bytes), options).await
    }

    #[tokio::test]
    async fn the_second_creation_of_a_name_loses() {
        let (store, root) = store("create");
        create(&store, "x/y/1.json", b"one").await.unwrap();
        let second = create(&store, "x/y/1.json", b"two").await;
        assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
        let kept = store.get(&Path::from("x/y/1.json")).await.unwrap().bytes().await.unwrap();
        assert_eq!(&kept[..], b"one");
        let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1, "no staging file is left or listed");
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn overwriting_replaces_whole_objects() {
        let (store, root) = store("overwrite");
        store.put(&Path::from("k"), PutPayload::from_static(b"first, longer")).await.unwrap();
        store.put(&Path::from("k"), PutPayload::from_static(b"second")).await.unwrap();
        let kept = store.get(&Path::from("k")).await.unwrap().bytes().await.unwrap();
        assert_eq!(&kept[..], b"second");
        fs::remove_dir_all(root).unwrap();
    }
}
