//! A host without apt and dpkg: QEMU and Xen come from a server by the lock file, are unpacked here,
//! boot a kernel, and are there the next time, when the server is not.
//!
//! The packages themselves are got by this host's apt, once, into the user's cache.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Suite, quietly, typed};
use crate::cli::{MirrorArgs, ProvisionArgs};
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::gather;
use crate::provision::packages::{Bundle, XEN_RELEASES};
use crate::stack::Via;

/// All the programs that such a host has.
const PROGRAMS: &[&str] = &["cargo", "rustc", "rustup", "curl"];

/// What a boot by these packages is called, the first time and the next.
const NAMES: [&str; 2] = [
    "mirror: packages by the lock file, from a server",
    "mirror: the same packages, without it",
];

/// Runs both.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let kernel = suite.kernel()?;
    let packages = suite.provision.cache.root().join("packages");
    let bundles = [Bundle::Qemu, Bundle::Hypervisor(XEN_RELEASES[0])];
    gather::gather(&bundles, &packages)?;
    let host = tempfile::tempdir().map_err(Failure::file("create", "a directory"))?;
    programs(host.path())?;
    let server = Server::start(packages)?;
    let provision = ProvisionArgs {
        mirror: MirrorArgs {
            mirror: Some(server.address.clone()),
        },
        ..ProvisionArgs::default()
    };
    for name in NAMES {
        let since = Instant::now();
        let mut command = typed::boot(&provision, Via::Dom0, &kernel, "log=warn")?;
        command.current_dir(&suite.workspace.root);
        command.env("PATH", host.path().join("bin"));
        command.env("XDG_CACHE_HOME", host.path().join("cache"));
        let failed = Failure::file("run", "cargo xtask boot");
        let output = quietly(name, || process::output(&mut command, failed))?;
        let result = match output.status.code() {
            Some(0) => Ok(()),
            _ => Err(format!(
                "boot ended with {}\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )),
        };
        suite.report(name, since, result);
        server.stop();
    }
    Ok(())
}

/// Makes links to the programs that there are.
fn programs(host: &Path) -> Result<()> {
    let bin = host.join("bin");
    std::fs::create_dir(&bin).map_err(Failure::file("create", &bin))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in PROGRAMS {
        let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
        if let Some(program) = places.find(|place| place.is_file()) {
            let link = bin.join(name);
            std::os::unix::fs::symlink(program, &link).map_err(Failure::file("link", &link))?;
        }
    }
    Ok(())
}

/// Serves the files of a directory by their names, whatever comes before these.
struct Server {
    address: String,
    stopped: Arc<AtomicBool>,
}

impl Server {
    fn start(dir: PathBuf) -> Result<Self> {
        let failed = || Failure::file("listen at", "127.0.0.1");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed())?;
        let port = listener.local_addr().map_err(failed())?.port();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // Who asks sees that nothing comes.
                let _ = serve(&stream, &dir);
            }
        });
        Ok(Self {
            address: format!("http://127.0.0.1:{port}/debian"),
            stopped,
        })
    }

    /// Has every later request fail.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn serve(mut stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let asked = lines.next().transpose()?.unwrap_or_default();
    lines
        .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
        .for_each(drop);
    let path = asked.split(' ').nth(1).unwrap_or_default();
    let name = path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .replace("%2B", "+");
    let found = std::fs::read(dir.join(name));
    let status = if found.is_ok() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let body = found.unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}
