//! What QEMU knows of a machine that stands still: where each processor is, whether it sleeps, which
//! interrupts wait for it and what its timers are set to. Asked twice, so that a machine that goes
//! round in a circle is told from one that sleeps.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take. QEMU answers from the thread that serves its devices too: where that
/// one is stuck, there is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between the two times.
const BETWEEN: Duration = Duration::from_secs(1);

/// Words of QEMU's monitor.
const QUESTIONS: &[&str] = &[
    "info status",
    "info cpus",
    "info registers -a",
    "info lapic 0",
    "info lapic 1",
    "info pic",
    "info irq",
    "info chardev",
];

/// What was found.
pub(super) struct Told {
    /// A line.
    pub(super) summary: String,
    /// All of it.
    pub(super) text: String,
}

/// Asks at the socket where QEMU answers.
pub(super) fn ask(socket: &Path) -> Told {
    let mut text = String::new();
    let asked = Monitor::open(socket).and_then(|mut monitor| {
        for round in 0..2 {
            if round > 0 {
                std::thread::sleep(BETWEEN);
            }
            for question in QUESTIONS {
                let answer = monitor.ask(question)?;
                text += &format!("== {question}\n{}\n", answer.replace('\r', ""));
            }
        }
        Ok(())
    });
    let summary = match asked {
        Ok(()) => summary(&text),
        Err(error) => format!("QEMU does not answer: {error}"),
    };
    Told { summary, text }
}

/// Where the processors were, each time.
fn summary(text: &str) -> String {
    let field = |line: &str, name: &str| {
        let rest = line.split_once(name)?.1;
        Some(rest.split_ascii_whitespace().next()?.to_owned())
    };
    let places = text.lines().filter_map(|line| {
        let rip = field(line, "RIP=")?;
        let asleep = field(line, "HLT=")? == "1";
        Some(if asleep { format!("{rip} asleep") } else { rip })
    });
    format!("processors at {}", places.collect::<Vec<_>>().join(", "))
}

struct Monitor {
    answers: BufReader<UnixStream>,
}

impl Monitor {
    fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            answers: BufReader::new(stream),
        };
        // Its greeting.
        monitor.line()?;
        monitor.send(&serde_json::json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    fn ask(&mut self, question: &str) -> std::io::Result<String> {
        let answer = self.send(&serde_json::json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": question},
        }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Sends a command and waits for what it returns, past what QEMU says by itself.
    fn send(&mut self, command: &serde_json::Value) -> std::io::Result<serde_json::Value> {
        self.answers
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())?;
        loop {
            let line: serde_json::Value = serde_json::from_str(&self.line()?)?;
            if let Some(answer) = line.get("return").or_else(|| line.get("error")) {
                return Ok(answer.clone());
            }
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_machine_is_asked_and_a_dead_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitor");
        let dead = ask(&path);
        assert!(dead.summary.starts_with("QEMU does not answer: "));

        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let questions = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            for question in questions.map_while(Result::ok) {
                let answer = match question.contains("registers") {
                    true => "RIP=ffff82d040322009 RFL=00000086 [--S--P-] CPL=0 HLT=1\r\n",
                    false => "",
                };
                let answer = serde_json::json!({"return": answer});
                let text = format!("{{\"event\": \"RESUME\"}}\n{answer}\n");
                stream.write_all(text.as_bytes()).unwrap();
            }
        });
        let told = ask(&path);
        let place = "ffff82d040322009 asleep";
        assert_eq!(told.summary, format!("processors at {place}, {place}"));
        assert!(told.text.contains("== info lapic 0\n"));
    }
}
