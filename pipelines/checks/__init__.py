"""What validate uses: record flags (Ibis), the profile of a day, the contract as a GX suite, reports."""
