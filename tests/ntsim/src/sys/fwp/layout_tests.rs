//! Holds the driver's WFP tables against the reference: `wfp-layout.json`, extracted from the WDK headers.
