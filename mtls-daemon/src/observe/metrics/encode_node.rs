//! The families of the node's own series, as text: flows, coverage, CRLs, OCSP, roots, the embedded CA.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{
    CaSample, ClusterHealth, CrlHealth, OcspHealth, RootsSample, Shared, SourceHealth, WorkloadMetrics,
    counter, lock,
};

pub(super) fn encode_flows(
    encoder: &mut DescriptorEncoder<'_>,
    (flows, evicted): (usize, u64),
) -> fmt::Result {
    let help = "Distinct flows that are remembered for rollout status and policy replay";
    let flows = ConstGauge::new(i64::try_from(flows).unwrap_or(i64::MAX));
    flows.encode(encoder.encode_descriptor("flows", help, None, MetricType::Gauge)?)?;
    let help = "Flows that were forgotten for want of room";
    let evicted = ConstCounter::new(evicted);
    evicted.encode(encoder.encode_descriptor("flows_evicted", help, None, MetricType::Counter)?)
}

/// What the daemon puts back; present from the start, so that rate() sees the first one.
pub const REPAIRS: [&str; 4] = ["program", "pin", "table", "listener"];

impl Shared {
    pub(super) fn encode_coverage(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        workloads: &[Arc<WorkloadMetrics>],
    ) -> fmt::Result {
        let help = "Connections of the workload that nothing accounts for, by the kernel's list of sockets";
        let mut metric =
            encoder.encode_descriptor("unaccounted_connections", help, None, MetricType::Gauge)?;
        for workload in workloads {
            let count = workload.unaccounted.load(Ordering::Relaxed);
            ConstGauge::new(count).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
        }
        let help = "1 if this part of the check of the coverage failed at its last look";
        let mut metric = encoder.encode_descriptor("verify_failed", help, None, MetricType::Gauge)?;
        for (check, failed) in lock(&self.verify_failed).iter() {
            ConstGauge::new(i64::from(*failed)).encode(metric.encode_family(&[("check", *check)])?)?;
        }
        let help = "Things that were not as the daemon made them and were put back";
        let mut metric = encoder.encode_descriptor("repairs", help, None, MetricType::Counter)?;
        let repairs = lock(&self.repairs);
        for what in REPAIRS {
            counter(&mut metric, &[("what", what)], repairs.get(what).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}

pub(super) fn encode_cluster(encoder: &mut DescriptorEncoder<'_>, cluster: &ClusterHealth) -> fmt::Result {
    let labels = |source: &SourceHealth| [("source", source.source.clone())];
    let number = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
    let help = "Time since the Kubernetes API server last said what there is of this resource";
    let mut metric =
        encoder.encode_descriptor("source_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for source in &cluster.sources {
        if let Some(age) = source.age {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(seconds).encode(metric.encode_family(&labels(source))?)?;
        }
    }
    let help = "1 if nothing was heard of this resource for five minutes; what was heard last is in force";
    let mut metric = encoder.encode_descriptor("source_stale", help, None, MetricType::Gauge)?;
    for source in &cluster.sources {
        ConstGauge::new(i64::from(source.stale)).encode(metric.encode_family(&labels(source))?)?;
    }
    let help = "Objects of this resource that are known";
    let mut metric = encoder.encode_descriptor("source_objects", help, None, MetricType::Gauge)?;
    for source in &cluster.sources {
        number(source.objects).encode(metric.encode_family(&labels(source))?)?;
    }
    let help = "Objects of this resource that cannot be read";
    let mut metric = encoder.encode_descriptor("source_refused", help, None, MetricType::Gauge)?;
    for source in &cluster.sources {
        number(source.refused).encode(metric.encode_family(&labels(source))?)?;
    }
    let help =
        "Services to whose address connections are not mTLS, since some pods behind them are not enrolled";
    let metric = encoder.encode_descriptor("services_mixed", help, None, MetricType::Gauge)?;
    number(cluster.mixed_services).encode(metric)?;
    let help = "Policy objects of the cluster of which this version is refused";
    let metric = encoder.encode_descriptor("policies_refused", help, None, MetricType::Gauge)?;
    number(cluster.policies_refused).encode(metric)
}

pub(super) fn encode_crls(encoder: &mut DescriptorEncoder<'_>, crls: &[CrlHealth]) -> fmt::Result {
    let labels =
        |crl: &CrlHealth| [("trust_domain", crl.trust_domain.clone()), ("source", crl.source.clone())];
    let help = "Time since the CRL in force was made (its thisUpdate)";
    let mut metric = encoder.encode_descriptor("crl_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for crl in crls {
        if let Some(age) = crl.age {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(seconds).encode(metric.encode_family(&labels(crl))?)?;
        }
    }
    let help = "1 if a source of CRLs has given none, or its next one is overdue";
    let mut metric = encoder.encode_descriptor("crl_stale", help, None, MetricType::Gauge)?;
    for crl in crls {
        ConstGauge::new(i64::from(crl.stale)).encode(metric.encode_family(&labels(crl))?)?;
    }
    Ok(())
}

pub(super) fn encode_ocsp(encoder: &mut DescriptorEncoder<'_>, ocsp: &[OcspHealth]) -> fmt::Result {
    let label = |health: &OcspHealth| ("trust_domain", health.trust_domain.clone());
    let help = "Questions to OCSP responders";
    let mut metric = encoder.encode_descriptor("ocsp_questions", help, None, MetricType::Counter)?;
    for health in ocsp {
        for (result, value) in [("answered", health.answered), ("failed", health.failed)] {
            counter(&mut metric, &[label(health), ("result", result.to_owned())], value)?;
        }
    }
    let help = "Certificates in use that no OCSP answer calls good or revoked now";
    let mut metric = encoder.encode_descriptor("ocsp_stale", help, None, MetricType::Gauge)?;
    for health in ocsp {
        let stale = i64::try_from(health.stale).unwrap_or(i64::MAX);
        ConstGauge::new(stale).encode(metric.encode_family(&[label(health)])?)?;
    }
    let help = "Time since the oldest OCSP answer in force was made (its thisUpdate)";
    let mut metric = encoder.encode_descriptor("ocsp_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for health in ocsp {
        if let Some(age) = health.age {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(seconds).encode(metric.encode_family(&[label(health)])?)?;
        }
    }
    Ok(())
}

pub(super) fn encode_roots(encoder: &mut DescriptorEncoder<'_>, roots: &[RootsSample]) -> fmt::Result {
    let help =
        "How near its end the longest root of the trust domain is: 0 ok, 1 warning, 2 critical, 3 expired";
    let mut metric = encoder.encode_descriptor("trust_roots_alarm", help, None, MetricType::Gauge)?;
    for sample in roots {
        let labels = [("trust_domain", &*sample.trust_domain)];
        ConstGauge::new(sample.level as u64).encode(metric.encode_family(&labels)?)?;
    }

    let help = "End of validity of the longest root of the trust domain, in seconds since 1970";
    let unit = Some(&Unit::Seconds);
    let mut metric =
        encoder.encode_descriptor("trust_roots_expiry_timestamp", help, unit, MetricType::Gauge)?;
    for (sample, not_after) in roots.iter().filter_map(|sample| Some((sample, sample.not_after?))) {
        let labels = [("trust_domain", &*sample.trust_domain)];
        ConstGauge::new(not_after).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(super) fn encode_ca(encoder: &mut DescriptorEncoder<'_>, certificates: &[CaSample]) -> fmt::Result {
    fn labels(sample: &CaSample) -> [(&str, &str); 2] {
        [("certificate", sample.certificate), ("name", &sample.name)]
    }
    let help = "How near its end a certificate of the embedded CA is: 0 ok, 1 warning, 2 critical, 3 expired";
    let mut metric = encoder.encode_descriptor("embedded_ca_alarm", help, None, MetricType::Gauge)?;
    for sample in certificates {
        ConstGauge::new(sample.level as u64).encode(metric.encode_family(&labels(sample))?)?;
    }

    let help = "End of validity of a certificate of the embedded CA, in seconds since 1970";
    let unit = Some(&Unit::Seconds);
    let mut metric =
        encoder.encode_descriptor("embedded_ca_expiry_timestamp", help, unit, MetricType::Gauge)?;
    for (sample, not_after) in certificates.iter().filter_map(|sample| Some((sample, sample.not_after?))) {
        ConstGauge::new(not_after).encode(metric.encode_family(&labels(sample))?)?;
    }
    Ok(())
}
