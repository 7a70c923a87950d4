//! Reads the persistence of a service.

use std::net::IpAddr;

use toml_edit::Table;

use super::{Reader, keys::PERSISTENCE, start};
use crate::{
    config::validate::Place,
    model::{
        Persistence,
        persistence::{PERSISTENCE_KEYS, PERSISTENCE_SETTINGS},
    },
};

impl Reader<'_> {
    /// Reads the persistence of the service with this index and VIP; `None` if it has none.
    pub(super) fn persistence(
        &mut self,
        index: usize,
        service: &Table,
        vip: IpAddr,
    ) -> Option<Persistence> {
        let place = |key| Place::Persistence(index, key);
        let item = service.get("persistence")?;
        let Some(table) = item.as_table_like() else {
            self.problem(
                start(item),
                "persistence must be a table, as in `persistence = { timeout = \"5m\" }`",
            );
            return None;
        };
        // Where a value that is not named is wrong beside those of other services.
        let places = PERSISTENCE_KEYS.map(|key| (place(key.name), start(item)));
        self.places.extend(places);
        self.keys(table, &PERSISTENCE, "persistence");
        let settings = self.settings(table, &PERSISTENCE_SETTINGS, place);
        if let Some(sentence) = settings.unfit(vip) {
            self.problem_at(place("netmask"), sentence);
        }
        Some(settings.over(Persistence::default(), vip))
    }
}
