//! The command.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "figures for the eye")]

mod progress;

use std::process::ExitCode;
use std::time::Instant;

use explore::arguments::{Command, read};
use explore::faults::{break_code, by_name};
use explore::search::{Bounds, Explored};
use explore::settings::{Event, SETTINGS, explore_all};

use progress::Progress;

fn main() -> ExitCode {
    match read(std::env::args_os().skip(1)) {
        Ok(Command::Print(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Command::Explore { bounds, jobs, fault }) => {
            if !break_code(fault.and_then(by_name)) {
                eprintln!("error: this build cannot be broken (feature `faults`)");
                return ExitCode::from(2);
            }
            if run(bounds, jobs) { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::from(2)
        }
    }
}

/// Explores, and says what came of it; whether all held.
fn run(bounds: Bounds, jobs: usize) -> bool {
    let start = Instant::now();
    let mut progress = Progress::new();
    let mut all: Vec<Option<Explored>> = SETTINGS.iter().map(|_| None).collect();
    explore_all(bounds, jobs, &mut |index, event| match event {
        Event::Progress(count) => {
            progress.show(index, &count);
            true
        }
        Event::Done(explored) => {
            progress.done(index);
            let holds = explored.found.is_none();
            all[index] = Some(*explored);
            holds
        }
    });
    drop(progress);

    let (mut states, mut calls, mut replayed, mut depth, mut complete, mut holds) = (0, 0, 0, 0, true, true);
    for (setting, explored) in SETTINGS.iter().zip(&all) {
        let Some(Explored { count, time, found }) = explored else { continue };
        states += count.states;
        calls += count.calls;
        replayed += count.replayed;
        depth = depth.max(count.depth);
        complete &= count.complete;
        println!(
            "{setting}: {} states, {} calls, up to {} in a row, {:.1} s",
            count.states,
            count.calls,
            count.depth,
            time.as_secs_f64()
        );
        if let Some(found) = found {
            holds = false;
            println!("\nbroken: {}\nafter:", found.breach);
            for (number, step) in found.steps.iter().enumerate() {
                println!("  {}. {step}", number + 1);
            }
            println!();
        }
    }
    println!(
        "{states} states, {calls} calls, up to {depth} in a row, {replayed} states reached anew from boot, in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    if holds {
        let all = if complete { "there are no more states" } else { "there are more states" };
        println!(
            "all held; bounds: {} states in each setting ({all}), failures in states of fewer than {} calls, one failure or an unending one in a call",
            bounds.states, bounds.failures
        );
    }
    holds
}
