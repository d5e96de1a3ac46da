//! The command.

use explore::machine::Layout;
use explore::search::{Bounds, explore};
use explore::world::Setting;
use xen_iommu::GroupPolicy;

fn main() {
    let number = |at: usize, otherwise: usize| {
        std::env::args().nth(at).map_or(otherwise, |word| word.parse().unwrap_or(otherwise))
    };
    let states = number(1, 1000);
    let failures = number(2, 100) as u32;
    for layout in [Layout::Pages, Layout::Cut] {
        for groups in [GroupPolicy::Refuse, GroupPolicy::MoveWhole] {
            for separate in [false, true] {
                let setting = Setting { groups, separate, layout };
                let bounds = Bounds { states, depth: 100, failures };
                let explored = explore(setting, bounds, &mut |_| {});
                println!("{setting}: {:?} in {:?}", explored.count, explored.time);
                if let Some(found) = explored.found {
                    for step in found.steps {
                        println!("  {step}");
                    }
                    println!("  => {}", found.breach);
                }
            }
        }
    }
}
