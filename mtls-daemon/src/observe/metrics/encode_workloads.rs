//! The families of workloads' series, as text.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::super::cause::Cause;
use super::super::connection::{Datapath, Direction};
use super::super::reason::Reason;
use super::workload::NO_CERTIFICATE;
use super::{Side, WorkloadMetrics, counter, lock};

pub(super) fn encode_handshakes(
    encoder: &mut DescriptorEncoder<'_>,
    workloads: &[Arc<WorkloadMetrics>],
) -> fmt::Result {
    let help = "TLS handshakes, by the local workload's side, result and reason of failure";
    let mut metric = encoder.encode_descriptor("handshakes", help, None, MetricType::Counter)?;
    for workload in workloads {
        for side in Side::ALL {
            let labels = |result, reason| {
                [
                    ("workload", &*workload.name),
                    ("side", side.as_str()),
                    ("result", result),
                    ("reason", reason),
                ]
            };
            counter(&mut metric, &labels("ok", "none"), workload.handshakes_ok.get(side as usize))?;
            let Some(failed) = workload.handshakes_failed.get(side as usize) else { continue };
            for reason in Reason::ALL {
                let value = failed.get(*reason as usize);
                if value > 0 {
                    counter(&mut metric, &labels("failed", reason.code()), value)?;
                }
            }
        }
    }

    let help = "Time from the first byte of a handshake until both sides accepted each other";
    let mut metric =
        encoder.encode_descriptor("handshake_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for workload in workloads {
        for (side, histogram) in Side::ALL.into_iter().zip(&workload.handshake_seconds) {
            if workload.handshakes_ok.get(side as usize) > 0 {
                let labels = [("workload", &*workload.name), ("side", side.as_str())];
                histogram.encode(metric.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

pub(super) fn encode_traffic(
    encoder: &mut DescriptorEncoder<'_>,
    workloads: &[Arc<WorkloadMetrics>],
) -> fmt::Result {
    let used = || {
        workloads.iter().flat_map(|workload| {
            Direction::ALL.into_iter().zip(&workload.traffic).flat_map(move |(direction, by_datapath)| {
                Datapath::ALL.into_iter().zip(by_datapath).filter_map(move |(datapath, traffic)| {
                    let labels = [
                        ("workload", &*workload.name),
                        ("direction", direction.as_str()),
                        ("datapath", datapath.as_str()),
                    ];
                    traffic.was_used().then_some((labels, traffic))
                })
            })
        })
    };

    let help = "Connections established";
    let mut metric = encoder.encode_descriptor("connections_opened", help, None, MetricType::Counter)?;
    for (labels, traffic) in used() {
        counter(&mut metric, &labels, traffic.opened.load(Ordering::Relaxed))?;
    }

    let mut metric =
        encoder.encode_descriptor("connections_live", "Connections open now", None, MetricType::Gauge)?;
    for (labels, traffic) in used() {
        ConstGauge::new(traffic.live()).encode(metric.encode_family(&labels)?)?;
    }

    let help = "Bytes of the applications, without TLS overhead";
    let mut metric =
        encoder.encode_descriptor("connection", help, Some(&Unit::Bytes), MetricType::Counter)?;
    for ([workload, direction, datapath], traffic) in used() {
        for (flow, count) in [("sent", &traffic.sent), ("received", &traffic.received)] {
            let labels = [workload, direction, datapath, ("flow", flow)];
            counter(&mut metric, &labels, count.load(Ordering::Relaxed))?;
        }
    }
    Ok(())
}

pub(super) fn encode_verdicts(
    encoder: &mut DescriptorEncoder<'_>,
    workloads: &[Arc<WorkloadMetrics>],
) -> fmt::Result {
    let help = "Connections refused, by reason";
    let mut metric = encoder.encode_descriptor("connections_refused", help, None, MetricType::Counter)?;
    for workload in workloads {
        for reason in Reason::ALL {
            let value = workload.refused.get(*reason as usize);
            if value > 0 {
                let labels = [("workload", &*workload.name), ("reason", reason.code())];
                counter(&mut metric, &labels, value)?;
            }
        }
    }

    let help = "Connections denied by policy, by rule";
    let mut metric = encoder.encode_descriptor("policy_denials", help, None, MetricType::Counter)?;
    for workload in workloads {
        for (rule, value) in lock(&workload.denials).iter() {
            counter(&mut metric, &[("workload", &*workload.name), ("rule", &**rule)], *value)?;
        }
    }

    let help = "Plaintext connections that a permissive port accepted";
    let mut metric = encoder.encode_descriptor("plaintext_accepted", help, None, MetricType::Counter)?;
    for workload in workloads {
        counter(&mut metric, &[("workload", &*workload.name)], workload.plaintext_total())?;
    }

    let help = "End of validity of the workload's certificate, in seconds since 1970";
    let mut metric = encoder.encode_descriptor(
        "certificate_expiry_timestamp",
        help,
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for workload in workloads {
        let expiry = workload.certificate_expiry.load(Ordering::Relaxed);
        if expiry != NO_CERTIFICATE {
            ConstGauge::new(expiry).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
        }
    }
    Ok(())
}

pub(super) fn encode_identities(
    encoder: &mut DescriptorEncoder<'_>,
    workloads: &[Arc<WorkloadMetrics>],
) -> fmt::Result {
    let help = "How near its end the workload's identity is: 0 ok, 1 warning, 2 critical, 3 expired or none";
    let mut metric = encoder.encode_descriptor("identity_alarm", help, None, MetricType::Gauge)?;
    for workload in workloads {
        let level = u64::try_from(workload.identity_alarm.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        ConstGauge::new(level).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
    }

    let help = "Attempts to get or renew the identity that failed since the last one that did not";
    let mut metric = encoder.encode_descriptor("identity_failures", help, None, MetricType::Gauge)?;
    for workload in workloads {
        let failures = workload.identity_failures.load(Ordering::Relaxed);
        ConstGauge::new(failures).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
    }
    Ok(())
}

pub(super) fn encode_leases(
    encoder: &mut DescriptorEncoder<'_>,
    workloads: &[Arc<WorkloadMetrics>],
) -> fmt::Result {
    let help = "Live connections that were cut because they would not be allowed any more, by why";
    let mut metric = encoder.encode_descriptor("leases_ended", help, None, MetricType::Counter)?;
    for workload in workloads {
        for cause in Cause::ALL {
            let labels = [("workload", &*workload.name), ("cause", cause.as_str())];
            counter(&mut metric, &labels, workload.leases_ended.get(cause as usize))?;
        }
    }

    let help = "Live connections that go on though they would not be allowed any more";
    let mut metric = encoder.encode_descriptor("leases_overdue", help, None, MetricType::Gauge)?;
    for workload in workloads {
        for (index, state) in ["kept", "draining"].into_iter().enumerate() {
            let labels = [("workload", &*workload.name), ("state", state)];
            ConstGauge::new(workload.leases_overdue.get(index)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
