//! Random sequences of calls on the host's Linux and on this crate: every result and every error
//! must be the same.
//!
//! `FILES_STEPS=1000000 cargo test -p guest-files --test differential` goes on for longer, and
//! `FILES_SEED=n` repeats a run.
#![cfg(target_os = "linux")]

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod ours;
mod theirs;

use common::{LIMITS, boot};
use guest_files::Identity;
use linux_raw_sys::general as linux;
use rustix::fs as host;

use calls::op;
use ours::Ours;
use theirs::Theirs;

type Answer = core::result::Result<String, i32>;

/// What both sides have of `stat`.
fn show(mode: u32, links: u64, size: i64, user: u32) -> String {
    let kind = mode & linux::S_IFMT;
    let size = if kind == linux::S_IFDIR { 0 } else { size };
    format!("mode {mode:o} links {links} size {size} user {user}")
}

fn bytes(count: usize, seed: u8) -> Vec<u8> {
    (0..count)
        .map(|at| (at as u8).wrapping_mul(7) ^ seed)
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    let mut sum = 0_u64;
    for &byte in bytes {
        sum = sum.wrapping_mul(31).wrapping_add(byte.into());
    }
    format!("{} bytes {sum:x}", bytes.len())
}

/// The directory in which all of it is.
const BASE: &str = "/x/y/z/w/base";

/// Runs one sequence on both, and says where they part.
fn sequence(seed: u64, steps: usize) {
    let first = Identity {
        user: rustix::process::geteuid().as_raw(),
        group: rustix::process::getegid().as_raw(),
        groups: rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(host::Gid::as_raw)
            .collect(),
    };
    let mut random = fastrand::Rng::with_seed(seed);
    // In memory, as ours: ext4 has other ideas of holes.
    let temporary = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let top = temporary.path().to_str().unwrap().to_owned();
    let nested = format!("{top}{BASE}");
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&top, everyone).unwrap();
    std::fs::create_dir_all(&nested).unwrap();
    let directory = host::OFlags::RDONLY | host::OFlags::DIRECTORY;
    let base = host::open(&nested, directory, host::Mode::empty()).unwrap();
    let mut theirs = Theirs {
        top,
        first: base.try_clone().unwrap(),
        base,
        open: Vec::new(),
    };
    let mut process = boot(LIMITS);
    for path in ["/x", "/x/y", "/x/y/z", "/x/y/z/w", "/x/y/z/w/base"] {
        let made = process
            .calls()
            .mkdirat(linux::AT_FDCWD, path.as_bytes(), 0o755);
        made.unwrap();
    }
    process.calls().chdir(BASE.as_bytes()).unwrap();
    for path in ["/x", "/x/y", "/x/y/z", "/x/y/z/w", BASE] {
        let owned =
            process
                .calls()
                .fchownat(linux::AT_FDCWD, path.as_bytes(), first.user, first.group, 0);
        owned.unwrap();
    }
    process.who = first.clone();
    let mut ours = Ours {
        first,
        process,
        open: Vec::new(),
    };
    let mut before = Vec::new();
    let mut user = 0;
    for _ in 0..steps {
        let op = op(&mut random, ours.open.len(), &mut user);
        let (our, their) = (ours.run(&op), theirs.run(&op));
        before.push(format!("{op:?} -> {their:?}"));
        if our != their {
            theirs.become_user(0);
            let from = before.len().saturating_sub(400);
            panic!(
                "seed {seed}, call {}: {op:?}\nLinux {their:?}\nours  {our:?}\nbefore:\n{}",
                before.len(),
                before[from..].join("\n")
            );
        }
    }
    theirs.become_user(0);
}

#[test]
fn random_calls_have_the_same_results_on_linux() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    if !std::path::Path::new("/dev/shm").is_dir() {
        println!("not compared: the host has no files in memory at /dev/shm");
        return;
    }
    let steps = number("FILES_STEPS", 20_000);
    let first = number("FILES_SEED", 1);
    rustix::process::umask(host::Mode::from_bits_retain(0o022));
    for seed in first..first + steps.div_ceil(500) {
        sequence(seed, 500);
    }
}
