//! Running this program again under callgrind, and reading what it counted.
//!
//! The child's measured calls all go through [`bench_measured`](crate::measure::bench_measured); callgrind
//! collects inside it alone, and writes a dump after each. The n-th dump belongs to the n-th row that the
//! child prints.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::report::Row;

/// The functions that callgrind is to know, by the ends of their paths. They are two, since callgrind does
/// not both toggle and dump at one.
const MEASURED: &str = "*bench_measured*";
const DUMP: &str = "*bench_dump*";

/// The word that makes this program measure an area instead of reporting on it.
pub(crate) const CHILD: &str = "--under-callgrind";

/// Runs the area's cases under callgrind.
///
/// # Errors
/// A sentence: valgrind cannot be started or fails, or its dumps are not what was measured.
pub(crate) fn count(area: &str) -> Result<Vec<Row>, String> {
    let valgrind = std::env::var_os("VALGRIND").filter(|named| !named.is_empty());
    let valgrind = valgrind.unwrap_or_else(|| "valgrind".into());
    let folder = tempfile::tempdir().map_err(|error| format!("no folder for callgrind's output: {error}"))?;
    let mut output = OsString::from("--callgrind-out-file=");
    output.push(folder.path().join("dump"));
    let myself = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut child = Command::new(&valgrind)
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=no"])
        .args([format!("--toggle-collect={MEASURED}"), format!("--dump-after={DUMP}")])
        .arg(output)
        .arg(myself)
        .args([CHILD, area])
        // callgrind counts `rep stosb` byte by byte, and a processor does not: glibc is to clear memory with
        // vector stores.
        .env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_stosb_threshold=1000000")
        // The first call of a library's function would have the dynamic linker's work in it.
        .env("LD_BIND_NOW", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", valgrind.display()))?;
    let mut rows = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|error| format!("the measured program's output: {error}"))?;
            let row: Row =
                serde_json::from_str(&line).map_err(|error| format!("no row: {line:?}: {error}"))?;
            progress(&format!("{area}: {}", row.case));
            rows.push(row);
        }
    }
    progress("");
    let status = child.wait().map_err(|error| format!("waiting for valgrind: {error}"))?;
    if !status.success() {
        return Err(format!("{} failed ({status})", valgrind.display()));
    }
    for (index, row) in rows.iter_mut().enumerate() {
        row.instructions = dumped(folder.path(), index + 1)?;
    }
    match fs::exists(folder.path().join(format!("dump.{}", rows.len() + 1))) {
        Ok(true) => {
            Err(format!("callgrind has counted more calls than the {} that were measured", rows.len()))
        }
        _ => Ok(rows),
    }
}

fn dumped(folder: &Path, number: usize) -> Result<u64, String> {
    let file = folder.join(format!("dump.{number}"));
    let text =
        fs::read_to_string(&file).map_err(|error| format!("callgrind's {}: {error}", file.display()))?;
    instructions(&text).map_err(|reason| format!("callgrind's {}: {reason}", file.display()))
}

/// The instructions that a dump accounts for: of the events that its header names, the total of `Ir`.
///
/// # Errors
/// A sentence: it is not such a dump, or one that callgrind did not finish.
pub(crate) fn instructions(dump: &str) -> Result<u64, String> {
    let value = |key: &str| dump.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let events = value("events").ok_or("it does not name its events")?;
    let column = events.split_whitespace().position(|event| event == "Ir");
    let column = column.ok_or_else(|| format!("Ir is not among its events{events}"))?;
    let totals = value("totals").ok_or("it has no totals")?;
    // Trailing zeros are left out.
    let number = totals.split_whitespace().nth(column).unwrap_or("0");
    number.parse().map_err(|_| format!("{number:?} is not a number of instructions"))
}

/// What is being done, on a line of its own that the next one replaces; only on a terminal.
fn progress(text: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::instructions;

    const TEXT: &str = "# callgrind format\nversion: 1\ncmd: ./bench\npart: 3\n\ndesc: Trigger: Program termination\n\n\
        positions: line\nevents: Ir\nsummary: 471\n\n\nfn=(1) bench_measured\n0 40\ncfn=(2)\ncalls=1 0\n0 431\n\ntotals: 471\n";

    #[test]
    fn the_total_of_a_dump_is_read() {
        assert_eq!(instructions(TEXT), Ok(471));
        let more = TEXT.replace("events: Ir", "events: Dr Ir").replace("totals: 471", "totals: 9 472");
        assert_eq!(instructions(&more), Ok(472));
        // Trailing zeros are left out of cost lines.
        assert_eq!(instructions(&more.replace("totals: 9 472", "totals: 9")), Ok(0));
    }

    #[test]
    fn a_dump_that_is_cut_short_is_no_number() {
        let cut = TEXT.split("totals").next().unwrap_or_default();
        assert!(instructions(cut).is_err());
        assert!(instructions("").is_err());
        assert!(instructions(&TEXT.replace("events: Ir", "events: Dr")).is_err());
        assert!(instructions(&TEXT.replace("totals: 471", "totals: many")).is_err());
    }
}
