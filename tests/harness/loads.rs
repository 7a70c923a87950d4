//! Loads of real servers, and what limits them.

use std::collections::BTreeMap;

use balancer_common::{
    load::{Load, RealLoad},
    real_server::MAX_REALS,
};

use crate::dataplane::Dataplane;

impl Dataplane {
    /// The load and limits of a real server.
    ///
    /// # Panics
    /// There is no such real id.
    #[must_use]
    pub fn load_of(&self, id: u32) -> RealLoad {
        self.memory.loads.get(id as usize)
    }

    /// Connections of a real server, `[active, inactive]`, as the packet program counts them.
    ///
    /// # Panics
    /// There is no such real id.
    #[must_use]
    pub fn counts_of(&self, id: u32) -> [u32; 2] {
        self.load_of(id).counts()
    }

    /// Changes the load and limits of a real server.
    pub fn update_load(&mut self, id: u32, change: impl FnMut(&mut RealLoad)) {
        self.update_loads([id], change);
    }

    /// Changes the loads and limits of several real servers.
    pub fn update_loads(
        &mut self,
        ids: impl IntoIterator<Item = u32>,
        mut change: impl FnMut(&mut RealLoad),
    ) {
        for id in ids {
            let mut load = self.load_of(id);
            change(&mut load);
            self.memory.loads.set(id as usize, load);
        }
    }

    /// Gives a real server a weight.
    pub fn set_weight(&mut self, id: u32, weight: u32) {
        self.update_load(id, |load| load.weight = weight);
    }

    /// A real server is full with `upper` connections, and takes new ones again below `lower`; 0 = never, and three quarters.
    pub fn set_limits(&mut self, id: u32, upper: u32, lower: u32) {
        self.update_load(id, |load| {
            load.upper = upper;
            load.resume = RealLoad::resume_below(upper, lower);
        });
    }

    /// Gives a real server so many connections, active and inactive, beside those of the tables.
    pub fn set_load(&mut self, id: u32, active: u32, inactive: u32) {
        self.set_loads([(id, [active, inactive])]);
    }

    /// As [`Dataplane::set_load`], for several real servers.
    pub fn set_loads(&mut self, loads: impl IntoIterator<Item = (u32, [u32; 2])>) {
        let mut steps = BTreeMap::new();
        for (id, [active, inactive]) in loads {
            let new = u64::from(active) << 32 | u64::from(inactive);
            let old = self.beside.insert(id, new).unwrap_or_default();
            steps.insert(id, new.wrapping_sub(old));
        }
        let mut of_ids = steps.values();
        self.update_loads(steps.keys().copied(), |load| {
            let step = of_ids.next().expect("a step for each id");
            load.counted = load.counted.wrapping_add(*step);
        });
    }

    /// The load of every real server is what its connections in the tables count.
    ///
    /// # Panics
    /// One differs.
    #[track_caller]
    pub fn assert_loads_are_exact(&self) {
        self.assert_loads_are_exact_up_to(self.reals);
    }

    /// So is that of every id that no real server has.
    ///
    /// # Panics
    /// One differs.
    #[track_caller]
    pub(crate) fn assert_all_loads_are_exact(&self) {
        self.assert_loads_are_exact_up_to(MAX_REALS - 1);
    }

    #[track_caller]
    fn assert_loads_are_exact_up_to(&self, last: u32) {
        let mut in_tables = self.counted_rows::<u32>();
        for (id, load) in self.counted_rows::<[u32; 4]>() {
            let sum: &mut u64 = in_tables.entry(id).or_default();
            *sum = sum.wrapping_add(load);
        }
        // Connections that are over count nothing.
        in_tables.retain(|_, load| *load != 0);
        let counted: BTreeMap<u32, u64> = (0..=last)
            .map(|id| (id, self.load_of(id)))
            .map(|(id, load)| {
                let beside = self.beside.get(&id).copied().unwrap_or_default();
                (
                    id,
                    load.counted.wrapping_sub(load.ended).wrapping_sub(beside),
                )
            })
            .filter(|(_, load)| *load != 0)
            .collect();
        let counts = |loads: BTreeMap<u32, u64>| -> BTreeMap<u32, [u32; 2]> {
            let loads = loads.into_iter();
            loads.map(|(id, load)| (id, Load(load).counts())).collect()
        };
        assert!(
            counted == in_tables,
            "loads, [active, inactive] by real id, are {:?}; the connections in the tables count {:?}",
            counts(counted),
            counts(in_tables)
        );
    }
}
