//! The side that runs under callgrind: each measured call goes through one function that callgrind knows by
//! name, and each tells what it was.

use std::hint::black_box;
use std::io::{self, Write};

use crate::report::Row;

/// Runs `call` on `input`, and is what callgrind counts: it collects from entering this function to leaving
/// it. The call is part of its type, so that it becomes this function's body, and its arguments come as they
/// would to a function of its own.
#[inline(never)]
pub(crate) fn bench_measured<I, O>(call: impl FnOnce(I) -> O, input: I) -> O {
    call(input)
}

/// Callgrind dumps what it has collected when this is left.
#[inline(never)]
fn bench_dump() {
    black_box(());
}

/// The rows of an area, told in the order of their calls.
pub(crate) struct Measurements {
    area: &'static str,
    /// The last one, which may still get a note.
    last: Option<Row>,
}

impl Measurements {
    pub(crate) fn new(area: &'static str) -> Self {
        Self { area, last: None }
    }

    /// Measures one call of `call` on `input`, under the name `case`; `describe` adds what the numbers are
    /// about.
    pub(crate) fn call<I, O>(
        &mut self,
        case: &str,
        call: impl FnOnce(I) -> O,
        input: I,
        describe: impl FnOnce(Row) -> Row,
    ) -> O {
        self.tell();
        let output = black_box(bench_measured(call, black_box(input)));
        bench_dump();
        self.last = Some(describe(Row::new(self.area, case)));
        output
    }

    /// Adds a note to the case measured last.
    pub(crate) fn note(&mut self, note: String) {
        self.amend(|row| row.note(note));
    }

    /// Adds to the case measured last what shows only when it is done.
    pub(crate) fn amend(&mut self, describe: impl FnOnce(Row) -> Row) {
        self.last = self.last.take().map(describe);
    }

    fn tell(&mut self) {
        let Some(row) = self.last.take() else { return };
        let mut line = serde_json::to_string(&row).unwrap_or_default();
        line.push('\n');
        // Should the pipe be closed, the parent has said why.
        let _ = io::stdout().lock().write_all(line.as_bytes());
    }
}

impl Drop for Measurements {
    fn drop(&mut self) {
        self.tell();
    }
}
