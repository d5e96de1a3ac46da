//! The command line's words.

use alloc::format;

use log::LevelFilter;

use crate::boot::command_line::Options;
use crate::check::ensure;
use crate::inventory::Inventory;
use crate::scenario::step::{Context, Outcome};

pub fn command_line(inventory: &mut Inventory) -> Outcome {
    let lines = [
        ("", [None, None, None], (false, false), ""),
        (
            "  rmrr=0xfff4-0xfff5=00:07.0 log=trace omit=uhci rmrr=e8=0:1d.0;f0=1:2 ",
            [Some("0xfff4-0xfff5=00:07.0"), Some("e8=0:1d.0;f0=1:2"), None],
            (true, false),
            "",
        ),
        (
            "list-steps stand-in-unit=0xfed90000 break=frames scenario=x scenario=table",
            [None; 3],
            (false, true),
            "table",
        ),
        ("rmrr OMIT=uhci omit= list-steps=1 stand-in-unit=fed90000 =", [None; 3], (false, false), ""),
    ];
    for (line, rmrr, (omits, lists), scenario) in lines {
        let line = if inventory.broken("command-line") { line.split_at(line.len() / 2).0 } else { line };
        let read = Options::new(line);
        let mut values = read.rmrr();
        let found = [values.next(), values.next(), values.next()];
        ensure!(found == rmrr, "the regions of {line:?} are {found:?}");
        ensure!(read.omits_uhci() == omits && read.list_steps() == lists, "the flags of {line:?}");
        ensure!(
            read.scenario().unwrap_or_default() == scenario,
            "the scenario of {line:?} is {:?}",
            read.scenario()
        );
        let unit = lists.then_some(0xfed9_0000);
        ensure!(read.stand_in_unit() == unit, "the unit of {line:?} is {:#x?}", read.stand_in_unit());
        ensure!(read.broken("frames") == lists, "the broken steps of {line:?}");
        let level = if omits { LevelFilter::Trace } else { LevelFilter::Info };
        ensure!(read.log_level() == level, "the log level of {line:?} is {}", read.log_level());
    }
    let unknown =
        Options::new("rmrr OMIT=uhci omit= list-steps=1 stand-in-unit=fed90000 = log=loud").unknown().count();
    ensure!(unknown == 7, "{unknown} of 7 words are told to mean nothing");
    Ok(format!("{} lines", lines.len()))
}
