// A file of its own, so that the page's policy can forbid scripts in line.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // the default asks an outside host
  persistAuthorization: false, // the token stays in memory
  tryItOutEnabled: true,
});
