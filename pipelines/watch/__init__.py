"""What watching served models takes: drift, decisions, alerts, reports and metrics; files of monitor become these."""
