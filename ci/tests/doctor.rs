//! `doctor` as other programs use it: its exit status and its JSON say the same, and it makes nothing.

use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn the_status_says_whether_something_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, cache) = (dir.path().join("empty"), dir.path().join("cache"));
    std::fs::create_dir(&empty).unwrap();
    // This machine as it is, but without a cache; and one on whose path there is only cargo.
    let path = std::env::var_os("PATH").unwrap();
    let cargo = std::env::split_paths(&path).map(|dir| dir.join("cargo"));
    let cargo = cargo.into_iter().find(|cargo| cargo.is_file()).unwrap();
    std::os::unix::fs::symlink(cargo, empty.join("cargo")).unwrap();
    for (path, must_lack) in [(path, false), (empty.into_os_string(), true)] {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_ci"));
        doctor.args(["doctor", "--json"]).stdin(Stdio::null());
        doctor.env("XDG_CACHE_HOME", &cache).env("PATH", path);
        let output = doctor.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let missing = findings
            .iter()
            .filter(|finding| finding["state"] == "missing");
        let missing: Vec<_> = missing.collect();
        assert!(missing.iter().all(|finding| finding["remedy"].is_string()));
        assert_eq!(report["status"], i32::from(!missing.is_empty()));
        assert_eq!(report["status"], output.status.code().unwrap());
        assert!(!must_lack || !missing.is_empty(), "{report}");
    }
    assert!(!cache.exists());
}
