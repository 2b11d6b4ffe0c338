//! The cache directory: what was fetched once is there for every clone of the repository and for
//! every later run, without network.
//!
//! Nothing is ever changed in place. A bundle or derived file is built under a temporary name and
//! renamed when complete, so an interrupted run leaves nothing half done; a lock keeps two runs
//! from fetching the same thing.
//!
//! A cache can be opened [`dry`](Cache::dry): it then notes what it lacks instead of getting it.

use std::cell::RefCell;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exit::{Failure, Result};
use crate::interrupt;
use crate::ui;

/// The name under which everything is kept below the user's cache directory.
pub(crate) const NAME: &str = "xen-pv-guest";

/// The file that one writer at a time holds; it has the writer's process id.
const LOCK: &str = "lock";

/// How often a run that waits for another looks.
const LOOK: Duration = Duration::from_millis(100);

/// The cache directory and the right ways to use it.
pub(crate) struct Cache {
    root: PathBuf,
    /// What would have been got, if nothing is to be.
    lacking: Option<RefCell<Vec<String>>>,
}

/// Holds the cache for one writer.
pub(crate) struct Guard(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Cache {
    /// The cache of this user.
    pub(crate) fn open() -> Result<Self> {
        Self::at(Self::place()?)
    }

    /// The cache of this user, to which nothing is written.
    pub(crate) fn dry() -> Result<Self> {
        Ok(Self {
            root: Self::place()?,
            lacking: Some(RefCell::default()),
        })
    }

    /// Where that of this user is.
    pub(crate) fn place() -> Result<PathBuf> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let root = variable("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .ok_or_else(|| {
                Failure::host("neither XDG_CACHE_HOME nor HOME is set", "set one of them")
            })?;
        Ok(root.join(NAME))
    }

    /// A cache in a directory of the caller's choice.
    pub(crate) fn at(root: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&root).map_err(Failure::file("create", &root))?;
        Ok(Self {
            root,
            lacking: None,
        })
    }

    /// In a dry cache, notes what there is not and returns where it would be, below the cache's
    /// directory.
    pub(crate) fn lacks(&self, what: &str, place: &str) -> Option<PathBuf> {
        let path = self.root.join(place);
        let note = format!("{what}: {}", path.display());
        self.lacking.as_ref()?.borrow_mut().push(note);
        Some(path)
    }

    /// Whether what lacks is noted instead of fetched.
    pub(crate) fn is_dry(&self) -> bool {
        self.lacking.is_some()
    }

    /// All that was noted.
    pub(crate) fn lacking(&self) -> Vec<String> {
        let lacking = self.lacking.as_ref();
        lacking.map_or_else(Vec::new, |noted| noted.borrow().clone())
    }

    /// In a dry cache, where a file of a bundle that was not fetched is expected.
    pub(crate) fn expected(&self, file: &Path) -> Option<PathBuf> {
        (self.lacking.is_some() && !file.exists()).then(|| file.to_path_buf())
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until no other run writes to the cache.
    pub(crate) fn lock(&self) -> Result<Guard> {
        let path = self.root.join(LOCK);
        // What is in it says who holds it, and must stay until that one lets go.
        let mut options = File::options();
        let open = options.create(true).truncate(false).read(true).write(true);
        let mut file = open.open(&path).map_err(Failure::file("create", &path))?;
        if file.try_lock().is_err() {
            let who = named(&path).unwrap_or_else(|| "another run".into());
            ui::say(format!("waiting for {who}, which is filling the cache ..."));
            while let Err(error) = file.try_lock() {
                match error {
                    TryLockError::WouldBlock if interrupt::requested() => {
                        return Err(Failure::Interrupted);
                    }
                    TryLockError::WouldBlock => std::thread::sleep(LOOK),
                    TryLockError::Error(error) => return Err(Failure::file("lock", &path)(error)),
                }
            }
        }
        let pid = std::process::id().to_string();
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(pid.as_bytes()));
        written.map_err(Failure::file("write", &path))?;
        Ok(Guard(file))
    }

    /// The unpacked bundle that `name` stands for at present.
    pub(crate) fn current(&self, name: &str) -> Option<PathBuf> {
        self.root.join("current").join(name).canonicalize().ok()
    }

    /// Makes `name` stand for the directory `key`, which `fill` unpacks if it isn't there. The
    /// caller holds the lock.
    pub(crate) fn install(
        &self,
        name: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let bundle = self.root.join("bundles").join(key);
        if !bundle.exists() {
            let temporary = self.temporary()?;
            let tree = temporary.path().join("tree");
            std::fs::create_dir(&tree).map_err(Failure::file("create", &tree))?;
            fill(&tree)?;
            rename(&tree, &bundle)?;
        }
        let temporary = self.temporary()?;
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink(Path::new("../bundles").join(key), &link)
            .map_err(Failure::file("link", &link))?;
        rename(&link, &self.root.join("current").join(name))?;
        Ok(bundle)
    }

    /// A file computed from bundles: `key` names all that it depends on. Takes the lock itself.
    pub(crate) fn derived(
        &self,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let file = self.root.join("derived").join(key);
        if file.exists() {
            return Ok(file);
        }
        if let Some(file) = self.lacks("make", &format!("derived/{key}")) {
            return Ok(file);
        }
        let _guard = self.lock()?;
        if !file.exists() {
            let temporary = self.temporary()?;
            let draft = temporary.path().join("draft");
            make(&draft)?;
            rename(&draft, &file)?;
        }
        Ok(file)
    }

    /// A directory on the same file system that goes away by itself.
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("unfinished-")
            .tempdir_in(&self.root)
            .map_err(Failure::file("create a directory in", &self.root))
    }

    /// Deletes all of it.
    pub(crate) fn empty(self) -> Result<()> {
        let _guard = self.lock()?;
        std::fs::remove_dir_all(&self.root).map_err(Failure::file("delete", &self.root))
    }

    /// Deletes what killed runs left behind. The caller holds the lock.
    pub(crate) fn sweep(&self, _held: &Guard) {
        for entry in std::fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("unfinished-")
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The run that writes to the cache in this directory, in words, if one does.
pub(crate) fn holder(root: &Path) -> Option<String> {
    let path = root.join(LOCK);
    let file = File::open(&path).ok()?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => named(&path).or(Some("another run".into())),
        // Closing the file releases it.
        _ => None,
    }
}

/// The run that a lock file names.
fn named(path: &Path) -> Option<String> {
    let pid: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = command.split(|byte| *byte == 0).skip(1);
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    let words = words.join(" ");
    Some(match words.trim() {
        "" => format!("the run with pid {pid}"),
        words => format!("the run with pid {pid} ({words})"),
    })
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(Failure::file("create", parent))?;
    }
    match std::fs::rename(from, to) {
        // Another run was first; what it made is the same.
        Err(_) if to.is_dir() && from.is_dir() => Ok(()),
        result => result.map_err(Failure::file("write", to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    #[test]
    fn a_bundle_is_filled_once() {
        let (_dir, cache) = cache();
        assert_eq!(cache.current("xen"), None);
        let fill = |tree: &Path| {
            std::fs::write(tree.join("file"), "1").map_err(Failure::file("write", tree))
        };
        let first = cache.install("xen", "xen_1", fill).unwrap();
        let again = cache
            .install("xen", "xen_1", |_| panic!("filled twice"))
            .unwrap();
        assert_eq!(first, again);
        assert_eq!(cache.current("xen"), Some(first.canonicalize().unwrap()));
    }

    #[test]
    fn a_dry_cache_notes_what_it_lacks_and_makes_nothing() {
        let (dir, cache) = cache();
        let make = |draft: &Path| std::fs::write(draft, "1").map_err(Failure::file("write", draft));
        cache.derived("there", make).unwrap();
        assert_eq!(cache.lacks("fetch", "x"), None);
        let dry = Cache {
            root: cache.root.clone(),
            lacking: Some(RefCell::default()),
        };
        dry.derived("there", |_| panic!("made")).unwrap();
        let file = dry.derived("missing", |_| panic!("made")).unwrap();
        assert_eq!(dry.lacking(), [format!("make: {}", file.display())]);
        assert!(file.starts_with(dir.path()) && !file.exists());
    }

    #[test]
    fn a_newer_version_takes_the_name_over() {
        let (_dir, cache) = cache();
        cache.install("xen", "xen_1", |_| Ok(())).unwrap();
        let second = cache.install("xen", "xen_2", |_| Ok(())).unwrap();
        assert_eq!(cache.current("xen"), Some(second.canonicalize().unwrap()));
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let (_dir, cache) = cache();
        let failed = cache.install("xen", "xen_1", |tree| {
            std::fs::write(tree.join("half"), "").unwrap();
            Err(Failure::Guest("stop".into()))
        });
        assert!(failed.is_err());
        assert_eq!(cache.current("xen"), None);
        assert!(!cache.root().join("bundles/xen_1").exists());
        let left: Vec<_> = std::fs::read_dir(cache.root()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn who_holds_the_lock_is_known_until_it_is_let_go() {
        let (_dir, cache) = cache();
        assert_eq!(holder(cache.root()), None);
        let guard = cache.lock().unwrap();
        let who = holder(cache.root()).unwrap();
        assert!(
            who.contains(&format!("pid {}", std::process::id())),
            "{who}"
        );
        drop(guard);
        assert_eq!(holder(cache.root()), None);
        // A number that is longer than the one that comes next.
        std::fs::write(cache.root().join(LOCK), "12345678901234567890").unwrap();
        let _guard = cache.lock().unwrap();
        let text = std::fs::read_to_string(cache.root().join(LOCK)).unwrap();
        assert_eq!(text, std::process::id().to_string());
    }

    #[test]
    fn leftovers_of_a_killed_run_are_swept() {
        let (_dir, cache) = cache();
        let left = cache.root().join("unfinished-x");
        std::fs::create_dir(&left).unwrap();
        let guard = cache.lock().unwrap();
        cache.sweep(&guard);
        assert!(!left.exists());
    }
}
