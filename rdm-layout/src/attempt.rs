//! One layout for a given choice of regions, BARs and modules, or why there is none.

use p2m::GfnRange;

use crate::e820::{self, E820_MAX, E820Entry};
use crate::error::Cause;
use crate::frames::{Bounds, FRAMES_2M, FRAMES_64M, align_down, align_up, range};
use crate::gaps::Closing;
use crate::list::{Full, List};
use crate::machine::{Backing, Fixed, Machine, Mode, Module, ModuleMemory};
use crate::plan::{BarPlan, ModulePlan, RegionPlan};
use crate::taken::Taken;
use crate::{fill, modules, two_range};

/// Frames of 1 GiB.
const FRAMES_1G: u64 = 1 << 18;

/// What keeps a choice from being laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    /// Whether no other arrangement can help.
    pub(crate) certain: bool,
}

/// Why an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Refused(Refusal),
    Full,
}

impl From<Full> for Stop {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

pub(crate) fn refuse(cause: Cause, certain: bool) -> Stop {
    Stop::Refused(Refusal { cause, certain })
}

/// A machine, the choice, and the layout as far as it is.
#[derive(Debug)]
pub(crate) struct Work<'m, 's> {
    pub(crate) machine: &'m Machine<'m>,
    pub(crate) taken: Taken<'s>,
    /// By address; those that are not honoured are left out.
    pub(crate) regions: &'s mut [RegionPlan],
    /// 32-bit ones first, and the largest first.
    pub(crate) bars: &'s mut [BarPlan],
    pub(crate) modules: &'s mut [ModulePlan],
    pub(crate) ram: List<'s, GfnRange>,
    pub(crate) e820: List<'s, E820Entry>,
    pub(crate) unallocated: List<'s, GfnRange>,
    /// Why no space stays unallocated though some was wanted.
    pub(crate) no_unallocated: Option<Cause>,
    pub(crate) hole: GfnRange,
    /// Which gaps between regions are closed, to save entries of the map.
    pub(crate) closing: Closing,
    /// Some of what is taken is RAM.
    pub(crate) took_ram: bool,
    /// What is taken (what lies fast, regions, BARs, modules with frames of their own) and the hole are those
    /// of the layout before, but for gaps that are closed now.
    pub(crate) stands: bool,
}

impl Work<'_, '_> {
    /// Lays out what is chosen. Where the map would have too many entries, RAM goes without the smallest gaps
    /// between regions.
    pub(crate) fn attempt(&mut self) -> Result<(), Stop> {
        (self.closing, self.stands) = (Closing::default(), false);
        let first = self.lay_out();
        let mut stopped = first;
        let (mut closed, mut step) = (0_usize, 0_usize);
        while let Err(Stop::Refused(Refusal { cause: Cause::E820 { entries }, .. })) = stopped {
            // A gap that is closed saves its own entry and makes one of those beside it. Where that does not
            // come true, the steps grow.
            step = entries.saturating_sub(E820_MAX).div_ceil(2).max(if closed == step {
                0
            } else {
                step.saturating_mul(2)
            });
            let wanted = closed.saturating_add(step);
            let (closing, count) = Closing::smallest(self.machine, self.regions, wanted, &mut self.ram)?;
            if count <= closed {
                break;
            }
            closed = count;
            self.closing = closing;
            // What is closed below the hole does not concern BARs, unless a module comes to them from there.
            let all_below = closing.lies_below(self.hole.low(), self.regions);
            let only_those = self.machine.mode == Mode::Ranges && !self.took_ram;
            self.stands = only_those && all_below && !self.own_modules_may_move();
            stopped = self.lay_out();
        }
        match stopped {
            Err(Stop::Refused(_)) => first,
            other => other,
        }
    }

    fn lay_out(&mut self) -> Result<(), Stop> {
        self.took_ram = false;
        if self.stands {
            for gap in self.closing.closed(self.machine, self.regions) {
                self.taken.take(gap)?;
            }
            self.ram_and_modules()?;
            return self.finish();
        }
        self.hole = self.machine.hole;
        self.fixed_and_regions()?;
        self.place_small_bars()?;
        let is_rigid = self.rigid_ram()?;
        self.place_own_modules()?;
        self.place_large_bars()?;
        match is_rigid {
            true => modules::in_ram(self.machine, self.ram.items(), self.modules).map_err(|not_found| {
                // A shorter low range would have none that fits below 4 GiB, but it would have more above.
                let certain = not_found.all_tried && !self.hole_may_grow() && !self.modules_may_lie_high();
                refuse(Cause::Modules, certain)
            })?,
            false => self.ram_and_modules()?,
        }
        self.finish()
    }

    /// The rest, once all has its place.
    fn finish(&mut self) -> Result<(), Stop> {
        self.firmware_has_ram()?;
        self.write_e820()?;
        self.stay_unallocated()
    }

    /// Where RAM may lie.
    pub(crate) fn windows(&self) -> [GfnRange; 2] {
        [range(0, self.hole.low()), self.machine.high]
    }

    /// Whether the hole could be another one.
    pub(crate) fn hole_may_grow(&self) -> bool {
        self.machine.hole_lowest < self.machine.hole.start()
    }

    /// What lies fast.
    pub(crate) fn fixed_and_regions(&mut self) -> Result<(), Stop> {
        self.taken.clear();
        let end = self.machine.end();
        for frames in self.closing.reserved(self.machine, self.regions) {
            if frames.high() > end {
                return Err(refuse(Cause::BeyondAddresses { end }, true));
            }
            self.taken.take(frames)?;
        }
        for (index, fixed) in self.machine.fixed().enumerate().filter(|(_, fixed)| !fixed.yields) {
            if let Some(at) = self.taken.first_in(fixed.range()) {
                return Err(refuse(Cause::Fixed { index, at: at.raw() }, true));
            }
        }
        for fixed in self.machine.fixed().filter(|fixed| fixed.backing != Backing::Ram) {
            self.taken.take(fixed.range())?;
        }
        Ok(())
    }

    /// RAM of a two-range layout, taken.
    fn rigid_ram(&mut self) -> Result<bool, Stop> {
        if self.machine.mode == Mode::Ranges {
            return Ok(false);
        }
        let floor = self.machine.firmware.floor.raw();
        // Up to there, nothing but the firmware's own devices may be in the low range.
        let devices = || self.machine.firmware.fixed.iter().filter(|fixed| fixed.backing != Backing::Ram);
        let regions = self.regions.iter().filter(|region| region.verdict.is_honoured());
        let others = regions.map(|region| region.frames).chain(self.machine.filled.iter().map(Fixed::range));
        for other in others.filter(|other| !other.is_empty() && other.low() < floor) {
            if !devices()
                .any(|device| device.range().low() <= other.low() && other.high() <= device.range().high())
            {
                return Err(refuse(Cause::LowEnd { at: other.low(), floor }, true));
            }
        }
        let ends =
            two_range::ends(&self.taken, self.machine.memory, self.hole.low(), floor, self.machine.high);
        let (low, high) = ends.map_err(|cause| refuse(cause, !self.hole_may_grow()))?;
        self.ram.clear();
        for range in [low, high] {
            for gap in self.taken.gaps(range) {
                self.ram.append(gap)?;
            }
        }
        self.taken.take(low)?;
        self.taken.take(high)?;
        Ok(true)
    }

    /// RAM in as many ranges as it takes, and the modules that lie in it.
    fn ram_and_modules(&mut self) -> Result<(), Stop> {
        let (windows, memory) = (self.windows(), self.machine.memory);
        self.ram.clear();
        let room = fill::fill(&self.taken, windows, memory, self.machine.large_pages, &mut self.ram)?;
        if room < memory {
            let certain = !self.own_modules_may_move() && !self.hole_may_grow();
            return Err(refuse(Cause::Memory { room }, certain));
        }
        if modules::in_ram(self.machine, self.ram.items(), self.modules).is_ok() {
            return Ok(());
        }
        // RAM comes to where the modules fit, not the other way round.
        if let Err(not_found) = modules::in_gaps(self.machine, &self.taken, windows, self.modules) {
            let certain = not_found.all_tried && !self.modules_meet_others();
            return Err(refuse(Cause::Modules, certain));
        }
        self.took_ram = true;
        let mut rest = memory;
        for place in
            modules::chosen(self.machine, self.modules, modules::Kind::Ram).filter_map(|one| one.place)
        {
            let Some(less) = rest.checked_sub(place.len()) else { return Err(refuse(Cause::Modules, true)) };
            rest = less;
            self.taken.take(place)?;
        }
        self.ram.clear();
        fill::fill(&self.taken, windows, rest, self.machine.large_pages, &mut self.ram)?;
        for place in
            modules::chosen(self.machine, self.modules, modules::Kind::Ram).filter_map(|one| one.place)
        {
            self.ram.push(place)?;
        }
        self.ram.join();
        Ok(())
    }

    /// What firmware uses of RAM has to be there: little memory does not reach it.
    fn firmware_has_ram(&self) -> Result<(), Stop> {
        let needed = self.machine.fixed().filter(|fixed| fixed.backing == Backing::Ram && !fixed.yields);
        for fixed in needed.map(|fixed| fixed.range()).filter(|fixed| !fixed.is_empty()) {
            if !self.ram.items().iter().any(|ram| ram.low() <= fixed.low() && fixed.high() <= ram.high()) {
                return Err(refuse(Cause::TooLittle { end: fixed.high() }, true));
            }
        }
        Ok(())
    }

    /// Whether a module with frames of its own takes some of what RAM or BARs could have, and could lie
    /// elsewhere.
    pub(crate) fn own_modules_may_move(&self) -> bool {
        let [low, high] = self.windows();
        modules::chosen(self.machine, self.modules, modules::Kind::Own).any(|one| {
            let window = self.machine.module(one.input).map(Module::window).unwrap_or_default();
            let frames = self.machine.module(one.input).map_or(0, |module| module.frames);
            window.len() > frames && [low, high, self.hole].iter().any(|place| place.overlaps(&window))
        })
    }

    /// Whether a module in RAM may lie above 4 GiB.
    fn modules_may_lie_high(&self) -> bool {
        let mut modules = modules::chosen(self.machine, self.modules, modules::Kind::Ram)
            .filter_map(|one| self.machine.module(one.input));
        modules.any(|module| module.window().overlaps(&self.machine.high))
    }

    /// Whether something that could lie elsewhere lies where a module in RAM might.
    fn modules_meet_others(&self) -> bool {
        let windows = || {
            let chosen = modules::chosen(self.machine, self.modules, modules::Kind::Ram);
            chosen.filter_map(|one| self.machine.module(one.input)).map(Module::window)
        };
        let bars = self.bars.iter().filter(|bar| bar.left_out.is_none()).filter_map(|bar| bar.place);
        let own = modules::chosen(self.machine, self.modules, modules::Kind::Own).filter_map(|one| one.place);
        self.hole_may_grow() || bars.chain(own).any(|place| windows().any(|window| window.overlaps(&place)))
    }

    /// Space that stays unallocated: the lowest above RAM, from a 1 GiB boundary on where it does not matter.
    fn stay_unallocated(&mut self) -> Result<(), Stop> {
        self.unallocated.clear();
        let wanted = align_up(self.machine.unallocated, FRAMES_2M).unwrap_or(u64::MAX);
        if wanted == 0 || self.no_unallocated.is_some() {
            return Ok(());
        }
        self.took_ram = true;
        let mut left = wanted;
        let [low, high] = self.windows();
        for window in [high, low] {
            for ram in self.ram.items().iter().filter(|ram| ram.overlaps(&window)) {
                self.taken.take(*ram)?;
            }
            for gap in self.taken.gaps(window) {
                let (Some(start), end) = (align_up(gap.low(), FRAMES_2M), align_down(gap.high(), FRAMES_2M))
                else {
                    continue;
                };
                let rounder = align_up(start, FRAMES_1G).unwrap_or(end);
                let frames = left.max(FRAMES_64M);
                let start = if rounder.saturating_add(frames) <= end { rounder } else { start };
                let found = range(start, end.min(start.saturating_add(frames)));
                if found.len() >= FRAMES_64M {
                    self.unallocated.push(found)?;
                    left = left.saturating_sub(found.len());
                }
                if left == 0 {
                    self.unallocated.items_mut().sort_unstable_by_key(GfnRange::start);
                    return Ok(());
                }
            }
        }
        Err(refuse(Cause::Unallocated { room: wanted.saturating_sub(left) }, false))
    }

    fn write_e820(&mut self) -> Result<(), Stop> {
        let machine = self.machine;
        let reserved = self.closing.reserved(machine, self.regions);
        let firmware = &machine.firmware;
        let lists_itself = |index: usize| firmware.lists_itself && index < firmware.modules.len();
        let modules = modules::chosen(machine, self.modules, modules::Kind::Own);
        let modules = modules.filter_map(|one| match machine.module(one.input)?.memory {
            ModuleMemory::Own(kind) if !lists_itself(one.input) => Some((one.place?, kind)),
            _ => None,
        });
        let listed = if machine.firmware.lists_itself { machine.filled.len() } else { usize::MAX };
        let fixed = machine.filled.iter().chain(machine.firmware.fixed).take(listed);
        let fixed = fixed.filter_map(|fixed| Some((fixed.range(), fixed.e820?)));
        let from = machine.firmware.e820_from.raw();
        e820::write(&mut self.e820, reserved, modules.chain(fixed), self.ram.items(), from)?;
        match self.e820.items().len() {
            entries if entries > E820_MAX => Err(refuse(Cause::E820 { entries }, false)),
            _ => Ok(()),
        }
    }
}
