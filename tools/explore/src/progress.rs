//! How far it has got, on a terminal.

use std::collections::BTreeMap;
use std::time::Instant;

use explore::search::Count;
use explore::settings::SETTINGS;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A line for each setting that is being explored.
pub(crate) struct Progress {
    lines: MultiProgress,
    bars: BTreeMap<usize, (ProgressBar, Instant)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { lines: MultiProgress::new(), bars: BTreeMap::new() }
    }

    pub(crate) fn show(&mut self, index: usize, count: &Count) {
        let (bar, start) = self.bars.entry(index).or_insert_with(|| {
            let bar = self.lines.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            (bar, Instant::now())
        });
        let rate = count.states as f64 / start.elapsed().as_secs_f64().max(0.001);
        bar.tick();
        bar.set_message(format!(
            "{} states, {} in the queue, depth {}, {rate:.0} states/s: {}",
            count.states, count.queue, count.depth, SETTINGS[index]
        ));
    }

    /// Prints a line above those that change.
    pub(crate) fn say(&self, line: &str) {
        self.lines.suspend(|| println!("{line}"));
    }

    pub(crate) fn done(&mut self, index: usize) {
        if let Some((bar, _)) = self.bars.remove(&index) {
            bar.finish_and_clear();
        }
    }
}
