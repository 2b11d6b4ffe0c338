//! How many symbolic links a path may lead through, compared with the host.
#![cfg(target_os = "linux")]

use crate::common::{LIMITS, boot, number};
use linux_raw_sys::general as linux;
use rustix::fs as host;

#[test]
fn as_many_links_are_followed_as_on_linux() {
    let directory = tempfile::tempdir().unwrap();
    let flags = host::OFlags::RDONLY | host::OFlags::DIRECTORY;
    let base = host::open(directory.path(), flags, host::Mode::empty()).unwrap();
    let process = boot(LIMITS);
    process.make("/0", b"");
    let mode = host::Mode::from_bits_retain(0o600);
    host::openat(&base, "0", host::OFlags::CREATE | host::OFlags::RDWR, mode).unwrap();
    let mut refused = 0;
    for at in 1..45 {
        let (target, name) = ((at - 1).to_string(), at.to_string());
        host::symlinkat(&target, &base, &name).unwrap();
        let made = process
            .calls()
            .symlinkat(target.as_bytes(), linux::AT_FDCWD, name.as_bytes());
        made.unwrap();
        for path in [name.clone(), format!("{name}/"), format!("{name}/x")] {
            let theirs = host::statat(&base, &path, host::AtFlags::empty());
            let theirs = theirs.map(drop).map_err(|error| error.raw_os_error());
            let ours = process.calls().fstatat(linux::AT_FDCWD, path.as_bytes(), 0);
            let ours = number(ours).map(drop);
            assert_eq!(ours, theirs, "{path}");
            refused += u32::from(ours == Err(linux_raw_sys::errno::ELOOP as i32));
        }
    }
    assert_eq!(refused, 3 * 4);
}
