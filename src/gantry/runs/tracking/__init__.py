"""Records a run in its folder and in MLflow. Importing this package imports no MLflow."""
