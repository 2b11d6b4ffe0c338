//! The rules on real Xen: which boots it takes, and what the kernel said in each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rules::{RULES, Rule, Verdict, book};

use super::{Judged, Plan, model};
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::{End, Outcome, judge};
use crate::exit::{Failure, Result};
use crate::provision::{Provision, Xen};
use crate::report::{Facts, Row, State};
use crate::stack::{Job, Mode, Session, Setting, Via, XenLog};

/// All rules take three seconds; a random sequence a few hundredths of one, and more in the shim.
const TIMEOUT: Duration = Duration::from_secs(60);
const SEED_TIMEOUT: Duration = Duration::from_millis(400);

/// The boot that rules share.
const SHARED: &str = "rules";

/// What the boots are made with.
pub(crate) struct Bench<'a> {
    pub(crate) provision: &'a Provision,
    pub(crate) kernel: PathBuf,
    /// For the logs.
    pub(crate) dir: PathBuf,
    /// The repository.
    pub(crate) workspace: &'a Path,
    /// What Xen says.
    pub(crate) xen_log: XenLog,
}

/// Judges by the plan's rules in each of these ways. `report` gets a row for each rule and for each
/// boot as they come.
pub(crate) fn on_xen(
    bench: &Bench<'_>,
    vias: &[Via],
    plan: &Plan,
    report: &mut dyn FnMut(Row),
) -> Result<Vec<Judged>> {
    let mut all = Vec::new();
    for host in vias.chunk_by(|a, b| a.shares_host_with(*b)) {
        let jobs: Vec<Job> = host
            .iter()
            .flat_map(|&via| jobs(via, &bench.kernel, plan))
            .collect();
        let mut session: Option<Box<dyn Session + '_>> = None;
        for &via in host {
            let mut judged = Judged::new(label(via, &bench.provision.xen));
            for job in jobs.iter().filter(|job| job.via == via) {
                let since = Instant::now();
                let dir = bench.dir.join(format!("{}-{}", via.name(), job.name));
                let mut transcript = Transcript::create(&dir, Show::Nothing, None)?.explaining(job);
                // A stack that broke down is opened anew for what is left.
                let mut open = match session.take() {
                    Some(open) => open,
                    None => {
                        let setting = Setting {
                            provision: bench.provision,
                            mode: Mode {
                                xen_log: bench.xen_log,
                                ..Mode::default()
                            },
                            workspace: bench.workspace,
                            dir: &dir,
                        };
                        via.stack().open(setting, &jobs)?
                    }
                };
                let end = match open.run(job, &mut transcript) {
                    Ok(end) => end,
                    Err(Failure::Interrupted) => {
                        transcript.finish();
                        let said = transcript.guest.join("\n");
                        let ended = book::parse(&said).into_iter();
                        // Whatever was under way did not crash.
                        judged
                            .results
                            .extend(ended.filter(|(_, (verdict, _))| *verdict != Verdict::Crash));
                        judged.time(&transcript);
                        judged
                            .rows(&own(plan, job), &transcript.logs())
                            .into_iter()
                            .for_each(&mut *report);
                        let trouble = [Failure::Interrupted];
                        report(boot_row(&judged.label, job, since, &transcript, &trouble));
                        return Err(Failure::Interrupted);
                    }
                    Err(failure) => End::Broken(failure.to_string()),
                };
                transcript.finish();
                if !matches!(end, End::Broken(_) | End::Zombie { .. }) {
                    session = Some(open);
                }
                let before = judged.trouble.len();
                add(
                    &mut judged,
                    plan,
                    job,
                    &transcript.guest,
                    &accepted(job, end),
                );
                judged.time(&transcript);
                judged.logs.extend(transcript.logs());
                judged
                    .rows(&own(plan, job), &transcript.logs())
                    .into_iter()
                    .for_each(&mut *report);
                let trouble = &judged.trouble[before..];
                report(boot_row(&judged.label, job, since, &transcript, trouble));
            }
            all.push(judged);
        }
    }
    Ok(all)
}

/// The rules that a boot is for.
fn own(plan: &Plan, job: &Job) -> Vec<u16> {
    let own = plan.kills.iter().filter(|n| job.name == format!("R{n}"));
    let shared = plan.numbers.iter().filter(|_| job.name == SHARED);
    own.chain(shared).copied().collect()
}

/// The row of a boot, which is bad only by what no rule is to blame for.
fn boot_row(
    label: &str,
    job: &Job,
    since: Instant,
    transcript: &Transcript,
    trouble: &[Failure],
) -> Row {
    let reasons: Vec<_> = trouble.iter().map(ToString::to_string).collect();
    Row {
        group: label.into(),
        name: format!("boot: {}", job.name),
        state: trouble.first().map_or(State::Pass, State::from),
        message: reasons.join("\n"),
        seconds: Some(since.elapsed().as_secs_f64()),
        facts: Facts::of(transcript),
    }
}

impl Judged {
    /// Takes over how long each rule took, from when the kernel announced it to when it told of it.
    fn time(&mut self, transcript: &Transcript) {
        let mut announced = BTreeMap::new();
        for (place, line) in transcript.guest.iter().enumerate() {
            let Some((number, word)) = rule_line(line) else {
                continue;
            };
            if word == "run" {
                announced.insert(number, place);
            } else if let Some(from) = announced.remove(&number)
                && let Some(time) = transcript.between(from, place)
            {
                self.seconds.insert(number, time.as_secs_f64());
            }
        }
    }
}

/// Number and word of `rule R09 run` and `rule R09 pass "..."`.
fn rule_line(line: &str) -> Option<(u16, &str)> {
    let mut words = line.strip_prefix("rule R")?.split_ascii_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?))
}

/// The target's name: the way and the Xen.
fn label(via: Via, xen: &Xen) -> String {
    let way = match via {
        Via::Xl => "domu",
        other => other.name(),
    };
    let xen = match xen {
        Xen::Release(release) => release.version.into(),
        Xen::File(path) => path
            .file_name()
            .map_or("file".into(), |name| name.to_string_lossy().into_owned()),
    };
    format!("{way}-{xen}")
}

/// One boot for what can share one, one for each rule that can end the domain.
fn jobs(via: Via, kernel: &Path, plan: &Plan) -> Vec<Job> {
    let job = |name: String, words: String, timeout: Duration| Job {
        // All memory mapped: some rules look at tables that the kernel does not use itself.
        cmdline: format!("log=warn directmap=full {words}"),
        timeout: Some(plan.timeout.unwrap_or(timeout)),
        ..Job::new(name, via, kernel)
    };
    let list = |numbers: &[u16]| {
        let names: Vec<_> = numbers.iter().map(|number| format!("R{number}")).collect();
        format!("rules={}", names.join(","))
    };
    let mut words = Vec::new();
    if plan.all {
        words.push("rules".into());
    } else if !plan.numbers.is_empty() {
        words.push(list(&plan.numbers));
    }
    let Range { start, end } = plan.seeds;
    let seeds = match start {
        0 => format!("differential={end}"),
        _ => format!("differential={start}..{end}"),
    };
    words.extend((start < end).then_some(seeds));
    let seeds = u32::try_from(end - start).unwrap_or(u32::MAX);
    let timeout = TIMEOUT.saturating_add(SEED_TIMEOUT.saturating_mul(seeds));
    let shared = (!words.is_empty()).then(|| job(SHARED.into(), words.join(" "), timeout));
    let own = plan
        .kills
        .iter()
        .map(|&number| job(format!("R{number}"), list(&[number]), TIMEOUT));
    shared.into_iter().chain(own).collect()
}

/// The end of a boot, with what its rule is known to cost taken as it is.
fn accepted(job: &Job, end: End) -> End {
    let known = |rule: &Rule| !rule.costs.is_empty() && job.name == format!("R{}", rule.number);
    match end {
        End::Zombie { end, .. } if RULES.iter().any(known) => *end,
        end => end,
    }
}

/// Adds what a boot came to.
fn add(judged: &mut Judged, plan: &Plan, job: &Job, lines: &[String], end: &End) {
    let text = lines.join("\n");
    let results = book::parse(&text);
    let explained = results
        .values()
        .any(|(verdict, _)| *verdict > Verdict::Pass);
    judged.results.extend(results);
    match judge(lines, end) {
        Outcome::Pass => {}
        // A rule that does not hold is told of by its verdict.
        Outcome::Fail(_) if explained => {}
        outcome => {
            let trouble = outcome.into_result().err();
            judged.trouble.extend(trouble);
            return;
        }
    }
    for number in own(plan, job) {
        if !judged.results.contains_key(&number) {
            let text = format!("R{number:02} was not judged");
            judged.trouble.push(Failure::Guest(text));
        }
    }
    if !plan.seeds.is_empty() && job.name == SHARED && !explained {
        let found = seeds(lines);
        let expected = model::differential(job.via, plan.seeds.clone());
        for (seed, expected) in plan.seeds.clone().zip(&expected) {
            let trouble = match found.get(&seed) {
                Some(found) if found == expected => {
                    judged.seeds += 1;
                    continue;
                }
                Some(found) => format!("{found}, on the model {expected}"),
                None => "its line on the console is lost".into(),
            };
            let text = format!("random sequence {seed}: {trouble}");
            judged.trouble.push(Failure::Guest(text));
        }
    }
}

/// What the random sequences came to, by their seeds. The kernel makes them in order: a number that
/// is not above those before it has lost digits, and its line with them.
fn seeds(lines: &[String]) -> BTreeMap<u64, &str> {
    let mut found = BTreeMap::new();
    for (seed, text) in lines.iter().filter_map(|line| seed_line(line)) {
        if found.last_key_value().is_none_or(|(&last, _)| last < seed) {
            found.insert(seed, text);
        }
    }
    found
}

/// A seed and what it came to, from `differential seed 7 pass "..."`.
fn seed_line(line: &str) -> Option<(u64, &str)> {
    let rest = line.strip_prefix("differential seed ")?;
    let (seed, rest) = rest.split_once(' ')?;
    let text = rest.split_once('"')?.1.trim_end().strip_suffix('"')?;
    Some((seed.parse().ok()?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str], seeds: Range<u64>) -> Plan {
        let names: Vec<_> = names.iter().map(|name| String::from(*name)).collect();
        Plan {
            seeds,
            ..Plan::new(&names, false).unwrap()
        }
    }

    fn words(plan: &Plan) -> Vec<String> {
        let jobs = jobs(Via::Xl, Path::new("kernel"), plan);
        jobs.into_iter().map(|job| job.cmdline).collect()
    }

    #[test]
    fn what_kills_boots_alone() {
        assert_eq!(
            words(&plan(&[], 0..3)),
            ["log=warn directmap=full rules differential=3"]
        );
        assert_eq!(
            words(&plan(&["R9"], 7..9)),
            ["log=warn directmap=full rules=R9 differential=7..9"]
        );
        assert_eq!(
            words(&plan(&["9", "R77", "R8"], 0..0)),
            [
                "log=warn directmap=full rules=R9",
                "log=warn directmap=full rules=R8",
                "log=warn directmap=full rules=R77"
            ]
        );
    }

    #[test]
    fn a_lost_line_is_no_other_sequences() {
        let plan = plan(&["R9"], 2..5);
        let jobs = jobs(Via::Dom0, Path::new("kernel"), &plan);
        let digests = model::differential(Via::Dom0, 2..5);
        let mut judged = Judged::new("dom0".into());
        let text = format!(
            "rule R09 pass \"\"\ndifferential seed 2 pass \"{}\"\ndifferential seed 3 pa\n\
             differential seed 4 pass \"{}\"\nverdict: pass",
            digests[0], digests[2]
        );
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let end = End::Shutdown(crate::console::verdict::Shutdown::Poweroff);
        add(&mut judged, &plan, &jobs[0], &lines, &end);
        assert_eq!(judged.seeds, 2);
        let trouble: Vec<_> = judged.trouble.iter().map(ToString::to_string).collect();
        let lost = "random sequence 3: its line on the console is lost";
        assert_eq!(trouble, [lost]);
    }

    #[test]
    fn a_sequence_that_differs_is_trouble() {
        let plan = plan(&["R9"], 0..1);
        let jobs = jobs(Via::Dom0, Path::new("kernel"), &plan);
        let good = format!(
            "rule R09 run\nrule R09 pass \"\"\ndifferential seed 0 pass \"{}\"\nverdict: pass\n",
            model::differential(Via::Dom0, 0..1)[0]
        );
        let end = End::Shutdown(crate::console::verdict::Shutdown::Poweroff);
        for (text, seeds) in [(good.clone(), 1), (good.replace("500 steps", "x"), 0)] {
            let mut judged = Judged::new("dom0".into());
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            add(&mut judged, &plan, &jobs[0], &lines, &end);
            assert_eq!(
                (judged.seeds, judged.trouble.len()),
                (seeds, 1 - seeds as usize)
            );
        }
    }

    #[test]
    fn a_zombie_is_trouble_but_where_the_rule_says_so() {
        let names = ["R77".into(), "R78".into()];
        let plan = Plan::new(&names, true).unwrap();
        let poweroff = End::Shutdown(crate::console::verdict::Shutdown::Poweroff);
        let zombie = End::Zombie {
            domid: 3,
            pages: Some(1),
            end: Box::new(poweroff),
        };
        for (job, trouble) in jobs(Via::Xl, Path::new("kernel"), &plan).iter().zip([1, 0]) {
            let mut judged = Judged::new("domu".into());
            let lines = [
                format!("rule {} pass \"\"", job.name),
                "verdict: pass".to_owned(),
            ];
            let end = accepted(job, zombie.clone());
            add(&mut judged, &plan, job, &lines, &end);
            assert_eq!(judged.trouble.len(), trouble, "{}", job.name);
        }
    }

    #[test]
    fn a_rule_without_an_end_is_a_crash() {
        let plan = plan(&[], 0..0);
        let jobs = jobs(Via::Dom0, Path::new("kernel"), &plan);
        let mut judged = Judged::new("dom0".into());
        let lines = ["rule R08 run".to_owned()];
        let end = End::Shutdown(crate::console::verdict::Shutdown::Crash);
        add(&mut judged, &plan, &jobs[0], &lines, &end);
        assert_eq!(judged.results[&8].0, Verdict::Crash);
        assert!(judged.into_result().is_err());
    }
}
