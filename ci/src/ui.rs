//! What the person at the terminal sees of long work: bars and spinners on a terminal, plain lines
//! in a log or under CI. All of it goes to standard error; standard output is the guest's.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One piece of work that takes noticeable time.
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    title: String,
    started: Instant,
}

/// Whether bars would be legible where standard error goes.
fn animated() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("CI").is_none()
}

/// Prints one line of status.
pub(crate) fn say(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// Opens work of unknown size.
pub(crate) fn spinner(title: impl Into<String>) -> Step {
    let title = title.into();
    let bar = animated().then(|| {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.with_message(title.clone())
    });
    if bar.is_none() {
        say(format!("{title} ..."));
    }
    Step {
        bar,
        title,
        started: Instant::now(),
    }
}

/// Opens work of `total` units; `bytes` tells whether they are bytes.
pub(crate) fn progress(title: impl Into<String>, total: u64, bytes: bool) -> Step {
    let title = title.into();
    let bar = animated().then(|| {
        let template = if bytes {
            "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}"
        } else {
            "{msg} [{bar:30}] {pos}/{len}"
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        ProgressBar::new(total)
            .with_style(style)
            .with_message(title.clone())
    });
    if bar.is_none() {
        say(format!("{title} ..."));
    }
    Step {
        bar,
        title,
        started: Instant::now(),
    }
}

impl Step {
    /// Moves a bar to `position`.
    pub(crate) fn set(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    /// Closes the work and says how long it took.
    pub(crate) fn done(self) {
        let text = format!(
            "{}: {:.1} s",
            self.title,
            self.started.elapsed().as_secs_f64()
        );
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(text);
    }

    /// Closes the work without a word.
    pub(crate) fn clear(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What a program complained of, shortened: the first lines, and how many more there are. An error that
/// each of a thousand files has is said once.
pub(crate) fn summed(complaint: &str) -> String {
    const SHOWN: usize = 3;
    let lines: Vec<_> = complaint
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let mut text = lines[..lines.len().min(SHOWN)].join("\n");
    if lines.len() > SHOWN + 1 {
        // What ends it says why it was given up.
        let last = lines[lines.len() - 1];
        let left = lines.len() - SHOWN - 1;
        text.push_str(&format!("\n... {left} lines more ...\n{last}"));
    } else if let Some(last) = lines.get(SHOWN) {
        text.push_str(&format!("\n{last}"));
    }
    text
}

/// A size the way a person reads it.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_complaint_is_summed_up() {
        let lines = |count: usize| {
            (1..=count)
                .map(|n| format!("tar: {n}\n"))
                .collect::<String>()
        };
        assert_eq!(summed(""), "");
        assert_eq!(summed("\none\n\n"), "one");
        assert_eq!(summed(&lines(4)), lines(4).trim_end());
        let long = summed(&lines(900));
        assert_eq!(
            long,
            "tar: 1\ntar: 2\ntar: 3\n... 896 lines more ...\ntar: 900"
        );
    }
}
