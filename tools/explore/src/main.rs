//! The command.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "figures for the eye")]

mod progress;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use explore::arguments::{Command, read};
use explore::search::{Bounds, Count, Explored, Found};
use explore::settings::{Event, SETTINGS, explore_all};

use progress::Progress;

fn main() -> ExitCode {
    match read(std::env::args_os().skip(1)) {
        Ok(Command::Print(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Command::Explore { bounds, jobs }) => {
            if run(bounds, jobs) {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
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
    let mut total = Count { complete: true, ..Count::default() };
    let mut holds = true;
    explore_all(bounds, jobs, &mut |index, event| match event {
        Event::Progress(count) => {
            progress.show(index, &count);
            true
        }
        Event::Done(explored) => {
            progress.done(index);
            progress.say(&format!("{}: {}", SETTINGS[index], explored.show()));
            let Explored { count, found, .. } = *explored;
            total.add(&count);
            if let Some(found) = &found {
                holds = false;
                progress.say(&way(found));
            }
            found.is_none()
        }
    });
    drop(progress);
    println!(
        "{} states, {} calls, up to {} in a row, {} states reached anew from boot, in {:.0} s",
        total.states,
        total.calls,
        total.depth,
        total.replayed,
        start.elapsed().as_secs_f64()
    );
    if holds {
        let more = if total.complete { "there are no more" } else { "there are more" };
        println!(
            "all held; bounds: {} states in the settings that do not end ({more}), failures there in states of fewer than {} calls",
            bounds.states, bounds.failures
        );
    }
    holds
}

/// A breach, and the shortest way to it.
fn way(found: &Found) -> String {
    let mut text = format!("\nbroken: {}\nafter boot", found.breach);
    for (number, step) in found.steps.iter().enumerate() {
        let _ = write!(text, "\n  {}. {step}", number + 1);
    }
    text + "\n"
}
