//! Real servers that cannot work with the host's present addresses and routes, whatever their probes say.

use std::{collections::BTreeMap, net::IpAddr};

use super::service_name;
use crate::model::Model;

/// A sentence for each real server that packets cannot reach; `obstacles` says why, by address.
pub(super) fn unreachable(model: &Model, obstacles: &BTreeMap<IpAddr, String>) -> Vec<String> {
    if obstacles.is_empty() {
        return Vec::new();
    }
    let mut sentences = Vec::new();
    for service in &model.services {
        for real in &service.reals {
            if let Some(obstacle) = obstacles.get(&real.address.ip()) {
                sentences.push(format!(
                    "real {} of service {} cannot work: {obstacle}",
                    real.address,
                    service_name(service)
                ));
            }
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::report::tests::SERVICES, model::change::tests::model};

    #[test]
    fn each_real_server_is_named_with_its_service() {
        let model = model(SERVICES);
        assert_eq!(unreachable(&model, &BTreeMap::new()), Vec::<String>::new());
        let obstacles = BTreeMap::from([
            ("10.0.0.2".parse().unwrap(), "why".to_owned()),
            ("10.9.9.9".parse().unwrap(), "nobody's".to_owned()),
        ]);
        let reasons = unreachable(&model, &obstacles);
        assert_eq!(
            reasons,
            [
                "real 10.0.0.2:80 of service web cannot work: why",
                "real 10.0.0.2:53 of service udp/192.0.2.80:53 cannot work: why"
            ]
        );
    }
}
