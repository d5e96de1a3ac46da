//! What a step is and what it runs on, and the runner: it tells how each step went, and restores what it
//! changed.

use alloc::format;
use alloc::string::String;

use crate::boot::command_line::Options;
use crate::boot::exit::Exit;
use crate::boot::serial::{self, Kind};
use crate::inventory::Inventory;

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

/// What steps run on.
pub trait Context {
    /// The options of this boot.
    fn options(&self) -> Options<'static>;

    /// Puts back what steps change and the next one does not expect. Called after each, whether it held or
    /// not.
    ///
    /// # Errors
    /// What could not be put back.
    fn restore(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Whether the command line asks to spoil what `step` looks at.
    fn broken(&self, step: &str) -> bool {
        self.options().broken(step)
    }
}

impl Context for Inventory {
    fn options(&self) -> Options<'static> {
        self.options
    }
}

/// Runs `steps` on the context that `make` makes, or lists them when the command line says so.
pub fn run<C: Context>(
    steps: &[Step<C>],
    options: Options<'static>,
    make: impl FnOnce() -> Result<C, String>,
) -> Exit {
    if options.list_steps() {
        return list(steps);
    }
    match make() {
        Ok(mut context) => run_on(steps, &mut context),
        Err(error) => refuse(format_args!("{error}")),
    }
}

/// The same, on a context that is there already.
pub fn run_on<C: Context>(steps: &[Step<C>], context: &mut C) -> Exit {
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
        let outcome = (step.run)(context);
        let restored = context.restore().map_err(|error| format!("not as it was before: {error}"));
        match outcome.and_then(|seen| restored.map(|()| seen)) {
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

/// Ends a run before its first step.
pub fn refuse(error: core::fmt::Arguments<'_>) -> Exit {
    log::error!("{error}");
    done(0, 1)
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
