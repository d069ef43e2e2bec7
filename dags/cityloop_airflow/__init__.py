"""What the DAG files are made with: Airflow and the standard library; nothing of the project is imported.

`dags/` stands in PYTHONPATH of every Airflow process, for triggers and callbacks are found by their path.
"""
