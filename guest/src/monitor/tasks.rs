//! What threads there are.

use super::Monitor;
use super::commands::command;
use crate::control::End;
use crate::{println, task};

fn tasks(_: &mut Monitor, _: &str) -> Option<End> {
    if !task::are_here() {
        println!("tasks: there are no threads, only what was booted");
        return None;
    }
    let threads = match task::tell() {
        Ok(threads) => threads,
        Err(e) => {
            println!("tasks: {e}");
            return None;
        }
    };
    println!("number vCPU  state    1000 ticks  name");
    for told in threads {
        let task::Told {
            number,
            name,
            state,
            vcpu,
            ran,
        } = told;
        println!(
            "{number:>6} {vcpu:>4}  {state:<8} {:>10}  {name}",
            ran / 1000
        );
    }
    None
}
command!(
    "tasks",
    "",
    "list the threads: where each runs, and how long it did by the processor's counter",
    needs EVERYWHERE,
    tasks
);
