//! The switches that the packet program takes when it is loaded: globals that the loader sets and that are constants
//! to the verifier, which then sees another program for each combination.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, read::elf::ElfFile64};

/// A switch and the values that it is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The global's name.
    pub name: &'static str,
    /// A value for each of the programs that the verifier sees.
    pub values: &'static [u64],
}

/// All of them; a test compares this with the object. All log lines are of one level, so that there are two programs: with them and without.
pub const SWITCHES: [Switch; 1] = [Switch {
    name: "AYA_LOG_LEVEL",
    values: &[0, 5],
}];

/// Names and sizes, in bytes, of the globals of an object, in alphabetical order.
///
/// # Panics
/// It is no ELF object.
#[must_use]
pub fn globals(object: &[u8]) -> Vec<(String, usize)> {
    let object = ElfFile64::<object::Endianness>::parse(object).expect("an ELF object");
    let mut globals: Vec<_> = object
        .symbols()
        .filter(|symbol| {
            // Constants without a name are local.
            symbol.is_global()
                && symbol
                    .section_index()
                    .and_then(|index| object.section_by_index(index).ok())
                    .and_then(|section| section.name().ok())
                    .is_some_and(is_data)
        })
        .map(|symbol| {
            let name = symbol.name().expect("a symbol's name").to_owned();
            (name, symbol.size() as usize)
        })
        .collect();
    globals.sort();
    globals
}

fn is_data(section: &str) -> bool {
    [".rodata", ".data", ".bss"]
        .iter()
        .any(|data| section == *data || section.starts_with(&format!("{data}.")))
}

/// Every combination of the switches' values: for each switch, in the order of `switches`, one value.
#[must_use]
pub fn combinations(switches: &[Switch]) -> Vec<Vec<u64>> {
    let Some((first, rest)) = switches.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for value in first.values {
        for mut combination in combinations(rest) {
            combination.insert(0, *value);
            all.push(combination);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_meets_each_other() {
        let switch = |name, values| Switch { name, values };
        assert_eq!(
            combinations(&[switch("a", &[0, 1]), switch("b", &[5, 6])]),
            [[0, 5], [0, 6], [1, 5], [1, 6]]
        );
        assert_eq!(combinations(&[]), [[0; 0]]);
    }

    #[test]
    fn the_table_has_every_global_of_the_object() {
        let named: Vec<_> = SWITCHES.iter().map(|switch| switch.name).collect();
        let globals = globals(balancer_ctl::dataplane::object::OBJECT);
        let in_object: Vec<_> = globals.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            named, in_object,
            "SWITCHES in tests/harness/switches.rs, in alphabetical order, against the object"
        );
    }
}
