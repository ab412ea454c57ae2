"""The plots of a report: each function makes one matplotlib `Figure`, and changes nothing global."""
