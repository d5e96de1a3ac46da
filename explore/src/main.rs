//! The command.

use explore::machine::Layout;
use explore::search::{Bounds, explore};
use explore::world::Setting;
use xen_iommu::GroupPolicy;

fn main() {
    let states = std::env::args().nth(1).map_or(1000, |word| word.parse().unwrap_or(1000));
    for layout in [Layout::Pages, Layout::Cut] {
        for groups in [GroupPolicy::Refuse, GroupPolicy::MoveWhole] {
            for separate in [false, true] {
                let setting = Setting { groups, separate, layout };
                let bounds = Bounds { states, depth: 100, failures: 100 };
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
