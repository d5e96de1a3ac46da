//! Scenarios: what the command line's `scenario=` names.

mod layout;
mod leaks;
mod policy;
mod selftest;
mod step;
mod walk;

use crate::boot::exit::Exit;
use crate::inventory::Inventory;
use crate::walker::{FourLevels, Iommu, SharedEpt, Svm, ThreeLevels, Vmx};

/// A list of steps with a name.
struct Scenario {
    /// The name for `scenario=`.
    name: &'static str,
    /// Runs it to its end.
    run: fn(&'static mut Inventory) -> Exit,
}

/// Every scenario. The first is the one that runs unless another is named.
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "devices", run: |inventory| policy::run(policy::DEVICES, inventory) },
    Scenario { name: "table", run: |inventory| policy::run(policy::TABLE, inventory) },
    Scenario { name: "selftest", run: |inventory| step::run_on(selftest::STEPS, inventory) },
    Scenario { name: "hotplug", run: |inventory| policy::run(policy::HOTPLUG, inventory) },
    Scenario { name: "memory", run: |inventory| step::run_on(selftest::MEMORY, inventory) },
    Scenario { name: "nested", run: |inventory| walk::run::<Svm>(inventory) },
    Scenario { name: "ept", run: |inventory| walk::run::<Vmx>(inventory) },
    Scenario { name: "vtd-walk", run: |inventory| walk::run::<Iommu<ThreeLevels>>(inventory) },
    Scenario { name: "vtd-walk-4", run: |inventory| walk::run::<Iommu<FourLevels>>(inventory) },
    Scenario { name: "vtd-walk-ept", run: |inventory| walk::run::<Iommu<SharedEpt>>(inventory) },
];

/// Runs the scenario that the command line names.
pub fn run_named(inventory: &'static mut Inventory) -> Exit {
    let name = inventory.options.scenario();
    let found = match name {
        Some(name) => SCENARIOS.iter().find(|scenario| scenario.name == name),
        None => SCENARIOS.first(),
    };
    match found {
        Some(scenario) => (scenario.run)(inventory),
        None => step::refuse(format_args!("there is no scenario {}", name.unwrap_or_default())),
    }
}
