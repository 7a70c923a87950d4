//! TCP packets and what becomes of their bytes.

use balancer_tests::{
    addresses::{R, R6, V, V6},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    expected::redirected,
    packet::flag::{ACK, PSH, SYN},
};

use crate::{establish, reaches_client, reaches_real, syn, syn_ack};

#[test]
fn case_01_a_syn_is_translated_to_the_real_server() {
    run(|lb| {
        let web = lb.web();
        let syn = syn();
        let out = syn.delivered(R, 8080);
        assert_eq!(
            (syn.ip_checksum(), syn.transport_checksum()),
            (0x4e41, 0x27eb)
        );
        assert_eq!(
            (out.ip_checksum(), out.transport_checksum()),
            (0x50e7, 0x0a51)
        );
        lb.step(
            Outside,
            &syn,
            redirected(&out)
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn case_03_the_syn_ack_comes_back_from_the_vip() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        let answer = syn_ack(&syn(), R, 8080);
        let out = answer.returned(V, 80);
        assert_eq!(
            (answer.ip_checksum(), answer.transport_checksum()),
            (0x4fe7, 0xe717)
        );
        assert_eq!(
            (out.ip_checksum(), out.transport_checksum()),
            (0x4f41, 0x04b2)
        );
        lb.step(Inside, &answer, redirected(&out).reply(web.real, &answer));
    });
}

#[test]
fn case_05_data_is_translated_and_refreshes_its_row() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        lb.change_rows_v4(|row| row.last_seen = row.last_seen.wrapping_sub(1000));
        let stale = lb.rows_v4();

        let payload: Vec<u8> = (0..1400_u32).map(|i| (i * 7) as u8).collect();
        let data = syn().segment(PSH | ACK, 1001, 9001).data(&payload);
        reaches_real(lb, web.real, &data);

        for (key, row) in lb.rows_v4() {
            let before = stale
                .iter()
                .find(|(k, _)| *k == key)
                .expect("the same row")
                .1;
            let refreshed = row.last_seen.wrapping_sub(before.last_seen);
            if row.direction == balancer_common::direction::ORIGINAL {
                assert!(
                    (900..5000).contains(&refreshed),
                    "refreshed by {refreshed} jiffies"
                );
            } else {
                assert_eq!(refreshed, 0, "the other direction saw no packet");
            }
        }
    });
}

#[test]
fn replies_with_data_come_back_from_the_vip() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let data = syn()
            .answered(R, 8080)
            .segment(PSH | ACK, 9001, 1001)
            .data(&[0x5a; 1399]);
        reaches_client(lb, web.real, &data);
    });
}

#[test]
fn case_08_a_tcp_checksum_that_folds_to_zero_is_sent_as_zero() {
    run(|lb| {
        let web = lb.web();
        let syn = syn().segment(SYN, 3641, 0);
        let out = syn.delivered(R, 8080);
        assert_eq!(
            (syn.transport_checksum(), out.transport_checksum()),
            (0x1d9a, 0x0000)
        );
        lb.step(
            Outside,
            &syn,
            redirected(&out)
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn case_09_a_header_checksum_that_folds_to_zero_is_sent_as_zero() {
    run(|lb| {
        let web = lb.web();
        let mut syn = syn();
        syn.id = 0x50e8;
        let out = syn.delivered(R, 8080);
        assert_eq!((syn.ip_checksum(), out.ip_checksum()), (0xfd59, 0x0000));
        lb.step(
            Outside,
            &syn,
            redirected(&out)
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn every_ip_id_gets_the_right_header_checksum() {
    run(|lb| {
        lb.web();
        establish(lb, &syn(), R, 8080);
        let mut ack = syn().segment(ACK, 1001, 9001);
        for id in (0..=u16::MAX)
            .step_by(13)
            .chain([0, 1, 0x50e7, 0x50e8, 0x50e9, 0xffff])
        {
            ack.id = id;
            let (_, out) = lb.send(Outside, &ack.bytes());
            assert_eq!(out, ack.delivered(R, 8080).bytes(), "id {id:04x}");
        }
    });
}

#[test]
fn case_21_tcp_options_stay_as_they_are() {
    run(|lb| {
        let web = lb.web();
        // MSS 1460, SACK permitted, timestamps.
        let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0];
        let syn = syn().tcp_options(&options[..12]);
        assert_eq!(syn.bytes()[46] >> 4, 8, "data offset");
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R, 8080))
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn case_22_ip_options_stay_and_the_ports_are_found_behind_them() {
    run(|lb| {
        let web = lb.web();
        let mut syn = syn();
        syn.ip_options = vec![0x94, 4, 0, 0]; // router alert
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R, 8080))
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
        let mut answer = syn_ack(&syn, R, 8080);
        answer.ip_options = vec![1; 40];
        reaches_client(lb, web.real, &answer);
    });
}

#[test]
fn case_23_dscp_and_ecn_are_kept() {
    run(|lb| {
        let web = lb.web();
        let mut syn = syn();
        syn.tos = 46 << 2 | 3;
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R, 8080))
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
        let mut syn = syn.v6().client_port(40002);
        syn.flow_label = 0xabcde;
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R6, 8080))
                .original(web.real6, &syn)
                .selected(web.service6, web.real6)
                .half_open(1),
        );
    });
}

#[test]
fn case_24_a_syn_with_data_is_translated_with_its_data() {
    run(|lb| {
        let web = lb.web();
        let syn = syn().data(b"GET / HTTP/1.1\r\n\r\n");
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R, 8080))
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn case_53_an_ipv6_syn_is_translated_to_the_real_server() {
    run(|lb| {
        let web = lb.web();
        let syn = syn().v6();
        let out = syn.delivered(R6, 8080);
        assert_eq!(
            (syn.transport_checksum(), out.transport_checksum()),
            (0xb7eb, 0xca60)
        );
        assert_eq!(out.hops, 63);
        lb.step(
            Outside,
            &syn,
            redirected(&out)
                .original(web.real6, &syn)
                .selected(web.service6, web.real6)
                .half_open(1),
        );
    });
}

#[test]
fn an_ipv6_connection_runs_from_handshake_to_data() {
    run(|lb| {
        let web = lb.web();
        let syn = syn().v6();
        lb.pass_through(Outside, &syn);
        let answer = syn_ack(&syn, R6, 8080);
        lb.step(
            Inside,
            &answer,
            redirected(&answer.returned(V6, 80)).reply(web.real6, &answer),
        );
        let ack = syn.clone().segment(ACK, 1001, 9001);
        lb.step(
            Outside,
            &ack,
            redirected(&ack.delivered(R6, 8080))
                .original(web.real6, &ack)
                .pair_v6()
                .half_open(-1),
        );
        let request = ack.clone().data(b"GET /");
        lb.step(
            Outside,
            &request,
            redirected(&request.delivered(R6, 8080)).original(web.real6, &request),
        );
        let page = answer
            .clone()
            .segment(PSH | ACK, 9001, 1006)
            .data(&[7; 1301]);
        lb.step(
            Inside,
            &page,
            redirected(&page.returned(V6, 80)).reply(web.real6, &page),
        );
    });
}

#[test]
fn case_63_ethernet_padding_is_neither_counted_nor_summed() {
    run(|lb| {
        let web = lb.web();
        let mut syn = syn();
        syn.padding = vec![0xee; 6];
        assert_eq!(syn.bytes().len(), 60);
        assert_eq!(syn.ip_length(), 40);
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R, 8080))
                .original(web.real, &syn)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn every_checksum_of_data_both_ways_is_right() {
    run(|lb| {
        lb.web();
        establish(lb, &syn(), R, 8080);
        establish(lb, &syn().v6(), R6, 8080);
        for round in 0..3000_u32 {
            let payload = round.wrapping_mul(2_654_435_761).to_be_bytes();
            let payload = &payload[..(round % 5) as usize];
            let data = syn().segment(ACK, 1001 + round * 977, 9001).data(payload);
            for (data, real) in [(data.clone(), R), (data.v6(), R6)] {
                let (_, out) = lb.send(Outside, &data.bytes());
                assert_eq!(out, data.delivered(real, 8080).bytes(), "{data:?}");
                let page = data.answered(real, 8080);
                let (_, out) = lb.send(Inside, &page.bytes());
                assert_eq!(out, page.returned(data.destination, 80).bytes(), "{page:?}");
            }
        }
    });
}
