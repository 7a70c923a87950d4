//! How many slots of a ring each weight comes to.

/// How many slots each of `weights` (all above 0) gets in a ring of at most `most` slots.
///
/// Where the weights over their greatest common divisor fit, those are the answer, exact. Otherwise the
/// ring has `most` slots: a weight too light for a slot gets one, and the rest of the ring is shared among the others by
/// largest remainder, so each of them is less than one slot away from its exact share of that rest. Where
/// there are more real servers than slots, the last ones get none.
pub(super) fn slots(weights: &[u32], most: u32) -> Vec<u32> {
    let divided = divide_by_gcd(weights);
    if divided.iter().map(|weight| u64::from(*weight)).sum::<u64>() <= u64::from(most) {
        return divided;
    }
    if weights.len() > most as usize {
        return (0..weights.len())
            .map(|index| u32::from(index < most as usize))
            .collect();
    }
    divide_by_gcd(&scale(&divided, most))
}

/// Scales `weights` (all above 0, at least one and at most `length` of them) to slots that add up to `length`; see
/// [`slots`] for the error.
pub(super) fn scale(weights: &[u32], length: u32) -> Vec<u32> {
    let mut light = vec![false; weights.len()];
    // Lifting a light weight to one slot takes from the others, which may make another one light.
    let (rest, total) = loop {
        let lifted = light.iter().filter(|is_light| **is_light).count() as u64;
        let rest = u64::from(length) - lifted;
        let total: u64 = weights
            .iter()
            .zip(&light)
            .filter(|(_, is_light)| !**is_light)
            .map(|(weight, _)| u64::from(*weight))
            .sum();
        let mut changed = false;
        for (weight, is_light) in weights.iter().zip(&mut light) {
            if !*is_light && u64::from(*weight) * rest < total {
                *is_light = true;
                changed = true;
            }
        }
        if !changed {
            break (rest, total);
        }
    };
    let mut slots = vec![1; weights.len()];
    let mut remainders = Vec::new();
    let mut given = 0;
    for (index, weight) in weights
        .iter()
        .enumerate()
        .filter(|(index, _)| !light[*index])
    {
        let exact = u64::from(*weight) * rest;
        // At most `rest`, which fits.
        slots[index] = (exact / total) as u32;
        given += exact / total;
        remainders.push((exact % total, index));
    }
    // Equal remainders: the earlier real server first.
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index) in remainders.into_iter().take((rest - given) as usize) {
        slots[index] += 1;
    }
    slots
}

/// `weights` over their greatest common divisor.
pub(super) fn divide_by_gcd(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().map(|weight| weight / divisor).collect()
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
