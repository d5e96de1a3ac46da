//! Scenarios: named lists of steps, and the runner that tells how each step went.

mod direct_map;
pub mod machine;
mod policy;
pub mod selftest;
mod walk;

use alloc::string::String;

use crate::boot::exit::Exit;
use crate::cmdline::Options;
use crate::machine::Machine;
use crate::serial::{self, Kind};

/// What a step says: what was seen, or what was wrong.
pub type Outcome = Result<String, String>;

/// One step. Steps run in order, each on the context that the one before left.
pub struct Step<C: ?Sized> {
    /// Lower-case words joined by `-`, unique in the scenario.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// What it does.
    pub run: fn(&mut C) -> Outcome,
}

/// The steps by name, and what they run on. A scenario with a context of its own makes it from the machine in `run`.
pub struct Scenario {
    /// The name for `scenario=`.
    pub name: &'static str,
    /// Runs it to its end.
    pub run: fn(&'static mut Machine) -> Exit,
}

/// Every scenario. The first is the one that runs unless told.
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "devices", run: policy::devices },
    Scenario { name: "table", run: policy::table },
    Scenario { name: "selftest", run: |machine| run(selftest::STEPS, machine) },
    Scenario { name: "hotplug", run: policy::hotplug },
    Scenario { name: "memory", run: |machine| run(direct_map::STEPS, machine) },
    Scenario { name: "nested", run: walk::nested },
    Scenario { name: "ept", run: walk::ept },
    Scenario { name: "vtd-walk", run: walk::vtd },
    Scenario { name: "vtd-walk-4", run: walk::vtd_of_four_levels },
    Scenario { name: "vtd-walk-ept", run: walk::vtd_on_ept },
];

/// Something with options on it.
pub trait Context {
    /// The options of this boot.
    fn options(&self) -> Options<'static>;

    /// Whether the command line asks to spoil what `step` looks at.
    fn broken(&self, step: &str) -> bool {
        self.options().broken(step)
    }
}

/// Runs the scenario that the command line names.
pub fn run_named(machine: &'static mut Machine) -> Exit {
    let name = machine.options().scenario();
    let found = match name {
        Some(name) => SCENARIOS.iter().find(|scenario| scenario.name == name),
        None => SCENARIOS.first(),
    };
    match found {
        Some(scenario) => (scenario.run)(machine),
        None => {
            log::error!("there is no scenario {}", name.unwrap_or_default());
            done(0, 1)
        }
    }
}

/// Runs `steps`, or lists them when the command line says so.
pub fn run<C: Context>(steps: &[Step<C>], context: &mut C) -> Exit {
    let options = context.options();
    if options.list_steps() {
        return list(steps);
    }
    // A word that breaks nothing would make a run that should fail pass.
    let mut unknown = 0;
    for name in options.breaks().filter(|name| !steps.iter().any(|step| step.name == *name)) {
        log::error!("there is no step {name} to break");
        unknown += 1;
    }
    if unknown != 0 {
        return done(0, unknown);
    }

    let (mut passed, mut failed) = (0, 0);
    for step in steps {
        serial::line(Kind::Step, format_args!("{}: {}", step.name, step.title));
        match (step.run)(context) {
            Ok(seen) => {
                serial::line(Kind::Pass, format_args!("{}: {seen}", step.name));
                passed += 1;
            }
            Err(wrong) => {
                serial::line(Kind::Fail, format_args!("{}: {wrong}", step.name));
                failed += 1;
            }
        }
    }
    done(passed, failed)
}

/// Names the steps and does nothing.
fn list<C>(steps: &[Step<C>]) -> Exit {
    for step in steps {
        serial::line(Kind::List, format_args!("{}: {}", step.name, step.title));
    }
    done(0, 0)
}

fn done(passed: usize, failed: usize) -> Exit {
    serial::line(Kind::Done, format_args!("passed={passed} failed={failed}"));
    if failed == 0 { Exit::Held } else { Exit::Failed }
}

/// Fails the step with a formatted text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// The text of an error, for `map_err`.
pub fn text(error: impl core::fmt::Display) -> String {
    alloc::format!("{error}")
}

/// A number of things, in words: `1 region`, `2 regions`.
pub fn counted(count: usize, thing: &str) -> String {
    alloc::format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
